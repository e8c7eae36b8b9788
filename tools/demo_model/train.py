"""Train the demo model from scratch: `python -m tools.demo_model.train`, about an hour on two cores.

Everything follows from the seed and the settings below: the corpus, the order, the initial weights.
A run saves its state every few minutes and goes on from there when started again; on one machine
and one number of threads, a run that was interrupted ends in the same weights as one that was not.
Only answers carry loss, so the output layer is computed for answer tokens alone.
"""

import argparse
import hashlib
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.demo import CHECKPOINT
from tools.demo_model.corpus import Corpus, Mix, Tokens, batches, pad
from tools.demo_model.model import MAX_LENGTH, Shape, make_config
from tools.demo_model.tokenizer import END_ID, PAD_ID, save_tokenizer, train_tokenizer

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import Qwen3ForCausalLM


@dataclass(frozen=True)
class Settings:
    """The settings that determine the trained weights.

    Attributes:
        seed: Of the corpus and of the initial weights.
        steps: Optimizer steps.
        tokens_per_step: Tokens of the documents of one step, padding not counted.
        micro_batches: Batches of similar lengths that a step is cut into.
        muon_lr: Peak learning rate of the weight matrices.
        adam_lr: Peak learning rate of embeddings and norms.
        weight_decay: Of the weight matrices.
        warmup: Share of the steps in which the learning rate rises.
        cooldown: Share of the steps in which it falls to zero.
        embedding_std: Spread of the initial embeddings.
        tokenizer_documents: Documents that the tokenizer is trained on.
        shape: The network.
        mix: The corpus.
    """

    seed: int = 2
    steps: int = 2400
    tokens_per_step: int = 4096
    micro_batches: int = 4
    muon_lr: float = 0.02
    adam_lr: float = 0.004
    weight_decay: float = 0.01
    warmup: float = 0.03
    cooldown: float = 0.6
    embedding_std: float = 1.0
    tokenizer_documents: int = 15000
    shape: Shape = field(default_factory=Shape)
    mix: Mix = field(default_factory=Mix)


def learning_rate(step: int, settings: Settings) -> float:
    """Return the share of the peak learning rate: up, flat, then down in a line to zero."""
    rise = max(1.0, settings.warmup * settings.steps)
    fall = max(1.0, settings.cooldown * settings.steps)
    return min(1.0, (step + 1) / rise, (settings.steps - step) / fall)


def make_model(settings: Settings, vocab_size: int) -> "Qwen3ForCausalLM":
    """Return the untrained network."""
    import torch
    from transformers import Qwen3ForCausalLM

    from tools.demo_model.initialization import initialize

    torch.manual_seed(settings.seed)
    model = Qwen3ForCausalLM(make_config(settings.shape, vocab_size))
    initialize(model, settings.shape, settings.embedding_std)
    return model


def loss_sum(model: "Qwen3ForCausalLM", batch: list[Tokens], device: str = "cpu") -> "tuple[torch.Tensor, float]":
    """Return the weighted sum of the losses of a batch, and the sum of the weights."""
    import torch
    from torch.nn.functional import cross_entropy

    inputs, targets, weights = pad(batch)
    target_ids = torch.tensor(targets, device=device).flatten()
    target_weights = torch.tensor(weights, device=device).flatten()
    # Padding is on the right and attention looks left: no mask is needed.
    hidden = model.model(torch.tensor(inputs, device=device), use_cache=False).last_hidden_state
    learned = target_weights.nonzero().squeeze(1)
    logits = model.lm_head(hidden.flatten(0, 1)[learned])
    losses = cross_entropy(logits.float(), target_ids[learned], reduction="none")
    return (losses * target_weights[learned]).sum(), sum(map(sum, weights))


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        step: Steps done.
        tokens: Tokens seen, padding not counted.
        seconds: Time spent in steps.
        corpus_hash: Chained SHA-256 of all token ids so far.
        losses: Loss of each step, per unit of weight.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    corpus_hash: str = ""
    losses: list[float] = field(default_factory=list)


class Run:
    """One training run: the model, its optimizers, and how far they have come."""

    def __init__(self, settings: Settings, tokenizer: "Tokenizer", device: str = "cpu") -> None:
        """Start at step 0."""
        from tools.demo_model.optimizer import make_optimizers

        self.settings = settings
        self.tokenizer = tokenizer
        self.device = device
        self.corpus = Corpus(settings.seed, settings.mix)
        self.model = make_model(settings, tokenizer.get_vocab_size()).to(device)
        self.optimizers = make_optimizers(
            self.model,
            muon_lr=settings.muon_lr,
            adam_lr=settings.adam_lr,
            weight_decay=settings.weight_decay,
        )
        self.peaks = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.progress = Progress()

    def step(self) -> float:
        """Do one optimizer step and return its loss."""
        start = time.perf_counter()
        settings, progress = self.settings, self.progress
        encoded = self.corpus.tokens(progress.step, settings.tokens_per_step, self.tokenizer)
        total_weight = sum(sum(tokens.weights[1:]) for tokens in encoded)
        loss = 0.0
        for batch in batches(encoded, settings.micro_batches):
            batch_loss, _ = loss_sum(self.model, batch, self.device)
            batch_loss = batch_loss / total_weight
            batch_loss.backward()  # type: ignore[no-untyped-call]
            loss += float(batch_loss.detach())
        if not math.isfinite(loss):
            raise FloatingPointError(f"loss is {loss} at step {progress.step}: lower the rates")
        share = learning_rate(progress.step, settings)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad()
        digest = hashlib.sha256(progress.corpus_hash.encode())
        for tokens in encoded:
            digest.update(json.dumps(tokens.ids).encode())
        progress.corpus_hash = digest.hexdigest()
        progress.step += 1
        progress.tokens += sum(len(tokens.ids) for tokens in encoded)
        progress.losses.append(loss)
        progress.seconds += time.perf_counter() - start
        return loss

    def save_state(self, path: Path) -> None:
        """Write the state of the run, whole or not at all."""
        import torch

        partial = path.with_suffix(".partial")
        torch.save(
            {
                "settings": asdict(self.settings),
                "progress": asdict(self.progress),
                "model": self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            },
            partial,
        )
        os.replace(partial, path)

    def load_state(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: If it was saved by a run of other settings.
        """
        import torch

        state = torch.load(path, weights_only=True, map_location=self.device)
        if state["settings"] != asdict(self.settings):
            raise ValueError(f"{path} is of a run with other settings: remove it to start anew")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def export(run: Run, folder: Path) -> dict[str, Any]:
    """Write the checkpoint in BF16 with its tokenizer and provenance; return the provenance."""
    import platform

    import torch
    import transformers
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    model = run.model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=128, eos_token_id=[END_ID, PAD_ID], pad_token_id=PAD_ID
    )
    model.save_pretrained(folder)
    save_tokenizer(run.tokenizer, folder, MAX_LENGTH)
    progress = run.progress
    tail = progress.losses[-50:]
    provenance = {
        "schema": 1,
        "settings": asdict(run.settings),
        "steps": progress.step,
        "tokens": progress.tokens,
        "minutes": round(progress.seconds / 60, 1),
        "final_loss": round(sum(tail) / len(tail), 4),
        "corpus_sha256": progress.corpus_hash,
        "weights_sha256": sha256_of(folder / "model.safetensors"),
        "tokenizer_sha256": sha256_of(folder / "tokenizer.json"),
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": device_name(run.device),
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
    return provenance


def device_name(device: str) -> str:
    """Return what trained, for the provenance: the GPU, or the number of CPU threads."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"


def train(
    settings: Settings,
    output: Path,
    state: Path,
    *,
    device: str = "cpu",
    save_minutes: float = 3.0,
    show: bool = True,
) -> dict[str, Any]:
    """Train, or go on training, and write the checkpoint.

    Args:
        settings: What to train.
        output: Folder of the checkpoint.
        state: File that holds the state of the run while it is not finished.
        device: Where to train: `cpu` or `cuda`.
        save_minutes: Time between two saves of the state.
        show: Whether to show progress.

    Returns:
        The provenance, as written beside the weights.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(quiet=not show, stderr=True)
    texts = Corpus(settings.seed, settings.mix).texts(settings.tokenizer_documents)
    run = Run(settings, train_tokenizer(texts), device)
    if state.exists():
        run.load_state(state)
        console.print(f"going on from step {run.progress.step} ({state})")
    state.parent.mkdir(parents=True, exist_ok=True)
    saved = time.monotonic()
    columns = (*Bar.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("training", total=settings.steps, completed=run.progress.step)
        while run.progress.step < settings.steps:
            loss = run.step()
            progress = run.progress
            bar.update(task, completed=progress.step, description=f"loss {loss:.3f}")
            if progress.step % 50 == 0:
                recent = sum(progress.losses[-50:]) / len(progress.losses[-50:])
                speed = progress.tokens / progress.seconds
                console.print(
                    f"step {progress.step}  loss {recent:.4f}  {progress.tokens / 1e6:.2f}M tokens "
                    f" {speed:.0f} tokens/s  {progress.seconds / 60:.1f} min"
                )
            if time.monotonic() - saved > save_minutes * 60:
                run.save_state(state)
                saved = time.monotonic()
    provenance = export(run, output)
    state.unlink(missing_ok=True)
    return provenance


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the last line of stdout is the provenance as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model.train", description=__doc__)
    parser.add_argument("--output", type=Path, default=CHECKPOINT, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=Settings.seed, help="seed of everything")
    parser.add_argument(
        "--state",
        type=Path,
        help="file to go on from after an interruption (default: beside the output folder)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    given = parser.parse_args(arguments)
    settings = replace(Settings(), steps=given.steps, seed=given.seed)
    state = given.state or given.output.with_name(given.output.name + ".state.pt")
    provenance = train(settings, given.output, state, device=given.device)
    print(json.dumps(provenance))
    return 0


if __name__ == "__main__":
    sys.exit(main())
