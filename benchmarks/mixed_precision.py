"""Costs that a mix of formats may be chosen by, each against the divergence that is then measured.

    python benchmarks/mixed_precision.py [--random 16] [--output FOLDER] [overrides, like model=qwen3_0_6b]

Three costs of rounding a group of Linears alone are compared, on the same tokens of the calibration:

* `kl`: the KL divergence of the next-token distributions from BF16's, which `quantize` measures,
* `output`: the squared error of the Linears' outputs with BF16's inputs, relative to the outputs,
* `fisher`: half the squared error of each output times its squared gradient, of the log-likelihood of tokens that the
  model draws (the diagonal of the Fisher information in the outputs: what rounding weights or inputs adds to the loss).

Mixes are the best by each cost at several budgets, and random ones at 5 bits, which differ in nothing but the choice.
Each is rounded to nearest in memory, and its KL divergence from BF16 is measured on the held-out text of `eval`, over
whole distributions. The rank correlation of a mix's summed cost with that is what the cost is worth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

BUDGETS = (4.5, 5.0, 5.5, 6.0, 7.0)
AT_RANDOM = 5.0
COSTS = ("kl", "output", "fisher")


class Study:
    """A model with the costs of rounding its groups, and the held-out text that mixes are measured on."""

    def __init__(self, overrides: list[str]) -> None:
        """Calibrate, and measure every cost."""
        import hydra

        from pipeline.config import RESOURCES
        from pipeline.config.compose import compose_variants
        from pipeline.models.headers import stored_tensors
        from pipeline.models.loading import stored_modules
        from pipeline.models.mix import UNROUNDED
        from pipeline.models.modules import decoder_linears, loaded_as_one
        from pipeline.models.tokenizer import load_tokenizer
        from pipeline.runner import Runner
        from pipeline.stages.eval.divergence import read_texts
        from pipeline.stages.quantize.engines import base
        from pipeline.stages.quantize.mixed import sensitivities
        from pipeline.stages.quantize.mixed.choice import size

        given = ["stage=calibrate", "quant=mixed", *overrides]
        with hydra.initialize_config_dir(str(RESOURCES / "conf"), version_base=None):
            run = Runner(compose_variants(hydra.compose("config", given), given), given)
        if run.execute():
            sys.exit(1)
        self.job = run.jobs[0]
        self.quant, self.folder = self.job.settings.quant, self.job.model.folder
        linears = decoder_linears(stored_tensors(self.folder), self.job.model.config)
        self.groups = loaded_as_one(linears)
        self.weights = sum(linear.shape[0] * linear.shape[1] for linear in linears.values())
        self.sizes = {
            name: {scheme: size(self.quant, scheme, [each.shape for each in own]) for scheme in self.quant.candidates}
            | {UNROUNDED: sum(2 * each.shape[0] * each.shape[1] for each in own)}
            for name, own in self.groups.items()
        }
        kl = sensitivities.of(self.job).kl
        self.model = base.load(self.job, torch.float32, linear_experts=True)
        self.modules, self.largest = stored_modules(self.model), sensitivities._largest(self.job)
        texts = self.job.settings.eval.divergence
        assert texts is not None
        self.texts = read_texts(texts, load_tokenizer(self.folder))
        self.tokens = np.array([len(text.counted) for text in self.texts], dtype=float)
        self.costs = {
            name: {scheme: {"kl": kl[name][scheme], **own} for scheme, own in found.items()}
            for name, found in self._local_costs(sensitivities._sequences(self.job)).items()
        }
        self._reference = [self._logprobs(text) for text in self.texts]

    def _local_costs(self, sequences: list[torch.Tensor]) -> dict[str, dict[str, dict[str, float]]]:
        """Return the costs that a group's own inputs and gradients tell."""
        noted = self._noted(sequences)
        found: dict[str, dict[str, dict[str, float]]] = {}
        for name, own in self.groups.items():
            found[name] = {}
            for scheme in self.quant.candidates:
                output = fisher = 0.0
                for linear in own:
                    inputs, gradients = (torch.cat(parts) for parts in zip(*noted[linear.name], strict=True))
                    module = self.modules[linear.name]
                    with torch.no_grad():
                        signal = module(inputs)
                        with self._rounded({name: scheme}):
                            wrong = module(inputs) - signal
                    output += float(wrong.square().sum() / signal.square().sum())
                    fisher += float((wrong * gradients).square().sum()) / (2 * len(inputs))
                found[name][scheme] = {"output": output, "fisher": fisher}
        return found

    def _noted(self, sequences: list[torch.Tensor]) -> dict[str, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Return inputs and gradients of the outputs of each Linear, (tokens, in) and (tokens, out), by sequence."""
        noted: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

        def note(name: str) -> Any:
            def hook(_: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
                entering = inputs[0].detach()[0]
                hooked: Any = output
                hooked.register_hook(lambda gradient: noted.setdefault(name, []).append((entering, gradient[0])))

            return hook

        torch.manual_seed(0)
        self.model.requires_grad_(False)
        handles = [
            self.modules[each.name].register_forward_hook(note(each.name))
            for own in self.groups.values()
            for each in own
        ]
        # Parameters need no gradients, so the graph begins at the embedding.
        handles.append(self.model.get_input_embeddings().register_forward_hook(lambda *all_: all_[2].requires_grad_()))
        for ids in sequences:
            logits = self.model(input_ids=ids.to(self.model.device), use_cache=False).logits[0].float()
            chances: Any = torch.distributions.Categorical(logits=logits.detach())
            loss: Any = torch.nn.functional.cross_entropy(logits, chances.sample(), reduction="sum")
            loss.backward()
        for handle in handles:
            handle.remove()
        return noted

    @contextlib.contextmanager
    def _rounded(self, mix: Mapping[str, str]) -> Iterator[None]:
        """Let the groups of a mix compute in their formats."""
        from pipeline.stages.quantize.mixed.rounded import rounded

        with contextlib.ExitStack() as stack:
            for name, scheme in mix.items():
                if scheme in self.quant.candidates:
                    own = {linear.name: self.modules[linear.name] for linear in self.groups[name]}
                    stack.enter_context(rounded(own, self.quant.candidate(scheme), self.largest))
            yield

    @torch.inference_mode()
    def _logprobs(self, text: Any) -> torch.Tensor:
        ids = torch.tensor([text.tokens], device=self.model.device)
        places = torch.tensor([place - 1 for place in text.counted])
        logits: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits[0][places]
        return logits.float().log_softmax(-1)

    def measured(self, mix: Mapping[str, str]) -> list[float]:
        """Return the sum of KL(BF16 || mix) over each held-out sequence, nats."""
        with self._rounded(mix):
            pairs = zip(self._reference, map(self._logprobs, self.texts), strict=True)
            return [float((known.exp() * (known - seen)).sum(dtype=torch.float64)) for known, seen in pairs]

    def bits(self, mix: Mapping[str, str]) -> float:
        """Return the average bits of the decoder's weights."""
        return 8 * sum(self.sizes[name][scheme] for name, scheme in mix.items()) / self.weights

    def predicted(self, mix: Mapping[str, str], cost: str) -> float:
        """Return the sum of a cost over the groups of a mix."""
        return sum(self.costs[name][scheme][cost] for name, scheme in mix.items() if scheme in self.quant.candidates)

    def best(self, cost: str, bits: float) -> dict[str, str] | None:
        """Return the mix with the least sum of a cost within average bits; None if none fits."""
        from pipeline.compare.decide.format_choice import Option, choose

        options = {
            name: [
                Option(format=scheme, bytes=size, cost=self.costs[name].get(scheme, {}).get(cost, 0.0))
                for scheme, size in own.items()
            ]
            for name, own in self.sizes.items()
        }
        found = choose(options, int(bits * self.weights / 8))
        return None if found is None else {name: option.format for name, option in found.items()}

    def at_random(self, seed: int) -> dict[str, str]:
        """Return the smallest format for all groups, with larger ones at random places as far as the bits go."""
        drawn = random.Random(seed)
        smallest = {name: min(own, key=lambda scheme: own[scheme]) for name, own in self.sizes.items()}
        mix = dict(smallest)
        for name in drawn.sample(list(self.groups), len(self.groups)):
            larger = [scheme for scheme in self.sizes[name] if scheme != smallest[name]]
            trial = {**mix, name: drawn.choice(larger)}
            mix = trial if self.bits(trial) <= AT_RANDOM else mix
        return mix

    def mixes(self, number: int) -> dict[str, dict[str, str]]:
        """Return the formats that all groups share, the best by each cost, and random ones."""
        found = {scheme: dict.fromkeys(self.groups, scheme) for scheme in self.quant.candidates}
        for bits in BUDGETS:
            found |= {f"{cost} {bits:g}": mix for cost in COSTS if (mix := self.best(cost, bits)) is not None}
        return found | {f"random {seed}": self.at_random(seed) for seed in range(number)}


def main() -> None:
    """Measure all mixes, print them and the rank correlations, and write both."""
    from scipy.stats import spearmanr

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=16, help="random mixes")
    parser.add_argument("--output", type=Path, help="folder of mixed_precision.json")
    options, overrides = parser.parse_known_args()
    study = Study(overrides)
    rows = []
    for name, mix in study.mixes(options.random).items():
        sums = study.measured(mix)
        predicted = {cost: study.predicted(mix, cost) for cost in COSTS}
        rows.append(
            {
                "name": name,
                "bits": study.bits(mix),
                "kl": sum(sums) / study.tokens.sum(),
                **{"by_sequence": sums, "predicted": predicted},
            }
        )
        costs = "  ".join(f"{cost} {value:.4g}" for cost, value in predicted.items())
        print(f"{name:<14} {rows[-1]['bits']:.3f} bits  measured {rows[-1]['kl']:.5f}  {costs}", flush=True)
    uniform = set(study.quant.candidates)
    chosen = {"all mixes": [row for row in rows if row["name"] not in uniform]}
    chosen[f"random mixes at {AT_RANDOM:g} bits"] = [row for row in rows if row["name"].startswith("random")]
    correlations = {
        what: {
            cost: float(spearmanr([r["predicted"][cost] for r in some], [r["kl"] for r in some])[0]) for cost in COSTS
        }
        for what, some in chosen.items()
        if len(some) > 2
    }
    for what, by_cost in correlations.items():
        print(f"{what} ({len(chosen[what])}):  " + "  ".join(f"{cost} {value:.3f}" for cost, value in by_cost.items()))
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        written = {"tokens": study.tokens.tolist(), "correlations": correlations, "mixes": rows}
        (options.output / "mixed_precision.json").write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
