"""Sensitivity of each group of Linears to each format: how far the model's predictions move if it alone is rounded.

The BF16 model reads conversations of the calibration. Of each group and format, only the Linears that vLLM loads as one
are rounded, weights and inputs (`rounded`), and the Kullback-Leibler divergence of the next-token distributions from
BF16's is the cost, in nats per token. Of the costs that were tried it predicts that of mixes best (docs/mixed.md).

Layers in front of a group compute what they compute in BF16, so their output is kept and they are passed over. In
memory are the model, one group's rounded weights, the states of the sequences in front of one layer, and BF16's
predictions. The artifact is the model's: every budget is chosen from it. What an interrupted pass has measured is kept.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.artifacts import provenance
from pipeline.artifacts.workspace import Artifact
from pipeline.config import Stage
from pipeline.models.headers import stored_tensors
from pipeline.models.loading import release_memory, stored_modules
from pipeline.models.modules import Linear, decoder_linears, loaded_as_one
from pipeline.results.calibration import SKETCHES, observations_key
from pipeline.results.mix import Sensitivities
from pipeline.stages.quantize.engines import base
from pipeline.stages.quantize.mixed.rounded import rounded

if TYPE_CHECKING:
    from pipeline.job import Job

SHARED_STAGE = "sensitivities"
# Conversations, and tokens of each at most, that pass the model once for each group and format.
SEQUENCES, LENGTH = 16, 128
FILE = "sensitivities.json"
# Groups that are done, a line of JSON each.
PARTIAL = "groups.jsonl"


def of(job: Job) -> Sensitivities:
    """Return the sensitivities of a job's model to the formats of its mix; measure what is missing."""
    artifact = _artifact(job)
    with job.workspace.claim(artifact) as why:
        if why is not None:
            context = provenance.context(job.settings, job.hardware, job.overrides)
            with job.workspace.making(artifact, context) as draft:
                draft.kept.mkdir(parents=True, exist_ok=True)
                found = _measure(job, draft.kept / PARTIAL)
                (draft.folder / FILE).write_text(found.model_dump_json(indent=1))
                draft.results = found
    return Sensitivities.model_validate_json((artifact.folder / FILE).read_text())


def _artifact(job: Job) -> Artifact:
    """Return the artifact of a model, a calibration and the formats, whatever the budget."""
    quant = job.settings.quant
    payload = {
        "model": job.model.identity(),
        Stage.CALIBRATE.value: observations_key(job.artifact(Stage.CALIBRATE).payload),
        "candidates": sorted(quant.candidates),
        "group_size": quant.group_size,
        "tokens": [SEQUENCES, LENGTH],
    }
    return job.workspace.artifact(SHARED_STAGE, job.settings.model.name, None, payload)


def _measure(job: Job, partial: Path) -> Sensitivities:
    """Return the sensitivities; groups that are in `partial` are not measured again, and others are added to it."""
    done = _read(partial)
    groups = loaded_as_one(decoder_linears(stored_tensors(job.model.folder), job.model.config))
    job.progress.detail("loading the model")
    model = base.load(job, linear_experts=True)
    modules, largest = stored_modules(model), _largest(job)
    # Layers are passed over in their order.
    ordered = sorted(groups.items(), key=lambda item: item[1][0].layer)
    predictions = Predictions(model, _sequences(job))
    with partial.open("a") as file:
        for number, (name, linears) in enumerate(ordered):
            if name in done:
                continue
            job.progress.detail(f"sensitivity of {name} ({number}/{len(ordered)})")
            predictions.advance(linears[0].layer)
            done[name] = {
                scheme: _sensitivity(job, predictions, modules, linears, scheme, largest)
                for scheme in job.settings.quant.candidates
            }
            file.write(json.dumps([name, done[name]]) + "\n")
            file.flush()
    tokens = predictions.tokens
    del model, modules, predictions
    release_memory()
    return Sensitivities(tokens=tokens, kl={name: done[name] for name in groups})


def _sensitivity(
    job: Job,
    predictions: Predictions,
    modules: Mapping[str, Any],
    linears: Sequence[Linear],
    scheme: str,
    largest: Mapping[str, float],
) -> float:
    """Return the KL divergence from BF16 if these Linears alone are rounded, nats per token."""
    own = {linear.name: modules[linear.name] for linear in linears}
    with rounded(own, job.settings.quant.candidate(scheme), largest):
        return max(0.0, sum(predictions.kl()) / predictions.tokens)


def _read(partial: Path) -> dict[str, dict[str, float]]:
    """Return the groups that an interrupted pass has measured; a line that was cut off is none."""
    found: dict[str, dict[str, float]] = {}
    if partial.is_file():
        for line in partial.read_text().splitlines():
            with contextlib.suppress(ValueError):
                name, own = json.loads(line)
                found[name] = own
    return found


def _sequences(job: Job) -> list[torch.Tensor]:
    """Return conversations spread over the calibration, cut to their first tokens."""
    known = base.sequences(job)
    spread = torch.linspace(0, len(known) - 1, min(SEQUENCES, len(known))).long().tolist()
    return [known[index][:, :LENGTH] for index in spread]


def _largest(job: Job) -> dict[str, float]:
    """Return the largest magnitude of each Linear's inputs in the calibration."""
    from safetensors import safe_open

    from pipeline.stages.calibrate.artifact import SITES

    with safe_open(job.artifact(Stage.CALIBRATE).folder / SKETCHES, framework="pt") as file:
        sites = json.loads(file.metadata()[SITES])
        seen = {site: float(file.get_tensor(f"{site}.extremes").abs().max()) for site in set(sites.values())}
    return {module: seen[site] for module, site in sites.items()}


class Predictions:
    """Next-token log-probabilities of a model on some sequences, computed from one of its layers on."""

    def __init__(self, model: Any, sequences: Sequence[torch.Tensor]) -> None:
        """Read the sequences, each of shape (1, length), by the model as it is."""
        self.model, self.layers = model, model.get_decoder().layers
        self.sequences = [ids.to(model.device) for ids in sequences]
        self.tokens = sum(ids.shape[1] for ids in sequences)
        self._layer, self._states = 0, list[torch.Tensor]()
        self._reference = [self._logprobs(number).cpu() for number in range(len(sequences))]

    def advance(self, layer: int) -> None:
        """Compute from this layer on, which must not lie in front of the one so far; the model is as it was."""
        if layer == self._layer:
            return
        states: list[torch.Tensor] = []
        handle = self.layers[layer].register_forward_pre_hook(lambda _, arguments: states.append(arguments[0]))
        try:
            for number in range(len(self.sequences)):
                self._run(number, self.model.get_decoder())
        finally:
            handle.remove()
        self._states, self._layer = states, layer

    def kl(self) -> list[float]:
        """Return the sum over each sequence's tokens of KL(BF16 || the model as it is now), nats."""
        found = []
        for number, reference in enumerate(self._reference):
            known = reference.to(self.model.device)
            found.append(float((known.exp() * (known - self._logprobs(number))).sum(dtype=torch.float64)))
        return found

    def _logprobs(self, number: int) -> torch.Tensor:
        logits: torch.Tensor = self._run(number, self.model).logits[0]
        return logits.float().log_softmax(-1)

    def _run(self, number: int, model: Any) -> Any:
        with torch.inference_mode(), self._passed_over(number):
            return model(input_ids=self.sequences[number], use_cache=False)

    @contextlib.contextmanager
    def _passed_over(self, number: int) -> Iterator[None]:
        """Let the layers in front of the current one put out the state that is kept."""
        front = self.layers[: self._layer]
        for layer in front:
            layer.forward = lambda *_, **__: self._states[number]
        try:
            yield
        finally:
            for layer in front:
                del layer.forward
