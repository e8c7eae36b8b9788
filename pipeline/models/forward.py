"""The forward passes over the BF16 model: whole, or layer by layer where the model is larger than memory.

Sequences run in order, one at a time or padded behind to a batch; no token of a decoder sees those behind it, so that
padding changes no other token, and the recorder leaves it out. Layer by layer, every sequence passes a
decoder layer before the next layer's weights are read: what is in memory is one layer, the embedding, and the hidden
states of all sequences. The arithmetic is the same, and so are the bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from pipeline.errors import ConfigError
from pipeline.models.architecture import read_config
from pipeline.models.headers import weight_bytes
from pipeline.models.loading import (
    all_experts_calibrated,
    compute_dtype,
    linearize_empty_experts,
    load_model,
    model_class,
    note_conversions,
    quiet,
    stored_names,
)
from pipeline.models.safetensors import tensor_files

if TYPE_CHECKING:
    from pipeline.hardware.probe import Hardware
    from pipeline.models.source import ModelSource

# Leave room for activations, the process itself, and other processes.
SHARE_OF_MEMORY = 0.7
BF16_BYTES = 2


class Recorder(Protocol):
    """Observes the activations of sequences while they pass, through hooks of its own."""

    def batches(self, lengths: Sequence[int], device: str) -> list[range]:
        """Return the sequences that pass together, in order."""

    def begin(self, lengths: Sequence[int]) -> None:
        """Begin a batch of sequences of these lengths."""

    def cache(self) -> Any:
        """Return the KV cache that the batch fills, or None."""

    def commit(self, first: int) -> None:
        """Count what was observed as part of the batch whose first sequence has that number."""

    def settle(self) -> None:
        """Move what was observed out of the device's memory: the layers so far are not observed again."""


class Decoder(Protocol):
    """A model that sequences can be sent through."""

    model: torch.nn.Module

    def run(self, sequences: Sequence[list[int]], recorder: Recorder | None, detail: Callable[[str], None]) -> None:
        """Run every sequence of token ids through all decoder layers; compute no logits."""


def decoder(
    source: ModelSource,
    hardware: Hardware,
    layerwise: Literal["auto", "always", "never"],
    detail: Callable[[str], None],
) -> Decoder:
    """Load the model, whole where it fits into memory and `layerwise` leaves the choice."""
    split = layerwise == "always" or (layerwise == "auto" and not fits(source.folder, hardware))
    return (Layerwise if split else Whole)(source, hardware, detail)


def fits(folder: Path, hardware: Hardware, dtype: torch.dtype | None = None) -> bool:
    """Return whether the weights fit into the free memory, in a type, or in that which they are computed in."""
    needed = weight_bytes(folder) * (dtype or compute_dtype(hardware)).itemsize / BF16_BYTES
    if hardware.device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        import psutil

        free = psutil.virtual_memory().available
    return needed < SHARE_OF_MEMORY * free


class Whole:
    """The whole model in memory, sequence after sequence."""

    def __init__(self, source: ModelSource, hardware: Hardware, detail: Callable[[str], None]) -> None:
        """Load the weights."""
        detail("loading the model")
        trust = source.settings.trust_remote_code
        self.model = load_model(source.folder, hardware, trust_remote_code=trust, linear_experts=True)

    def run(self, sequences: Sequence[list[int]], recorder: Recorder | None, detail: Callable[[str], None]) -> None:
        """Run every sequence."""
        with torch.inference_mode(), all_experts_calibrated(self.model):
            for batch in _batches(sequences, recorder, self.model.device.type):
                detail(f"{batch.start}/{len(sequences)} conversations")
                with _observed(batch, sequences, recorder):
                    _forward(self.model, _padded(batch, sequences), recorder)


class Layerwise:
    """One decoder layer in memory at a time, read from the checkpoint's files when its turn comes."""

    def __init__(self, source: ModelSource, hardware: Hardware, detail: Callable[[str], None]) -> None:
        """Read all but the decoder layers.

        Raises:
            ConfigError: if the layout of the model's layers or weights is not supported.
        """
        from accelerate import init_empty_weights
        from transformers import AutoConfig

        quiet()
        detail("reading the embedding")
        trust = source.settings.trust_remote_code
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=trust)
        self.dtype, self.device = compute_dtype(hardware), torch.device(hardware.device)
        # Buffers are computed, not stored: the rotary embedding needs them.
        with init_empty_weights(include_buffers=False):
            create = model_class(read_config(source.folder)).from_config
            self.model: Any = create(config, dtype=self.dtype, trust_remote_code=trust)
        self._files = tensor_files(source.folder)
        note_conversions(self.model, self._files)
        linearize_empty_experts(self.model)
        self.model.eval()
        body = self.model.get_decoder()
        layers = getattr(body, "layers", None)
        if not isinstance(layers, torch.nn.ModuleList):
            raise ConfigError(
                f"calibration.layerwise: {type(body).__name__} has no plain list of decoder layers.",
                "Set calibration.layerwise=never, on a machine with more memory.",
            )
        self.layers = layers
        self._names = {module: name for name, module in self.model.named_modules()}
        self._stored = stored_names(self.model)
        for module in body.modules():
            if not self._is_layer(module):
                self._load(module)
        for module in body.modules():
            if not self._is_layer(module):
                for name, buffer in module.named_buffers(recurse=False):
                    setattr(module, name, buffer.to(self.device))

    def run(self, sequences: Sequence[list[int]], recorder: Recorder | None, detail: Callable[[str], None]) -> None:
        """Run every sequence, layer by layer."""
        batches = _batches(sequences, recorder, self.device.type)
        with torch.inference_mode(), all_experts_calibrated(self.model):
            states = []
            for batch in batches:
                with _observed(batch, sequences, recorder):
                    states.append(self._rehearse(_padded(batch, sequences), recorder))
            for number, layer in enumerate(self.layers):
                detail(f"layer {number}/{len(self.layers)}")
                for module in layer.modules():
                    self._load(module)
                for batch, (hidden, arguments) in zip(batches, states, strict=True):
                    detail(f"layer {number}/{len(self.layers)}, {batch.start}/{len(sequences)} conversations")
                    with _observed(batch, sequences, recorder):
                        output = layer(hidden[0].to(self.device), **arguments[number])
                        hidden[0] = (output[0] if isinstance(output, tuple) else output).to("cpu")
                layer.to("meta")
                if recorder is not None:
                    recorder.settle()

    def _rehearse(self, sequences: list[list[int]], recorder: Recorder | None) -> tuple[list[torch.Tensor], list[Any]]:
        """Return the input hidden states of the first layer, and the other arguments of each layer.

        Nothing that a decoder computes between its layers depends on the hidden states, so the model itself is asked,
        with layers that note their arguments and pass the state on.
        """
        entered: list[torch.Tensor] = []
        arguments: list[Any] = []

        def note(hidden: torch.Tensor, **rest: Any) -> torch.Tensor:
            if not entered:
                entered.append(hidden.to("cpu"))
            arguments.append(rest)
            return hidden

        with _replaced(self.layers, note):
            _forward(self.model, sequences, recorder)
        return entered, arguments

    def _is_layer(self, module: torch.nn.Module) -> bool:
        return bool(self._names[module].startswith(f"{self._names[self.layers]}."))

    def _load(self, module: torch.nn.Module) -> None:
        """Load a module's own parameters from the files, in the computing type on the device."""
        from safetensors import safe_open

        for name, _ in list(module.named_parameters(recurse=False)):
            full = self._stored(f"{self._names[module]}.{name}")
            if full not in self._files:
                raise ConfigError(
                    f"calibration.layerwise: the checkpoint has no tensor {full}.",
                    "Its weights are laid out in another way than its modules: set calibration.layerwise=never.",
                )
            with safe_open(self._files[full], framework="pt") as file:
                tensor = file.get_tensor(full).to(device=self.device, dtype=self.dtype)
            setattr(module, name, torch.nn.Parameter(tensor, requires_grad=False))


def _batches(sequences: Sequence[list[int]], recorder: Recorder | None, device: str) -> list[range]:
    if recorder is None:
        return [range(number, number + 1) for number in range(len(sequences))]
    return recorder.batches([len(sequence) for sequence in sequences], device)


def _padded(batch: range, sequences: Sequence[list[int]]) -> list[list[int]]:
    """Return sequences padded behind to the longest; which token that is matters to none before it."""
    chosen = [sequences[number] for number in batch]
    longest = max(map(len, chosen))
    return [[*sequence, *sequence[-1:] * (longest - len(sequence))] for sequence in chosen]


@contextmanager
def _observed(batch: range, sequences: Sequence[list[int]], recorder: Recorder | None) -> Iterator[None]:
    if recorder is not None:
        recorder.begin([len(sequences[number]) for number in batch])
    yield
    if recorder is not None:
        recorder.commit(batch.start)


def _forward(model: Any, sequences: list[list[int]], recorder: Recorder | None) -> None:
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor(sequences, device=device)
    cache = recorder.cache() if recorder is not None else None
    model.get_decoder()(input_ids=ids, use_cache=False, past_key_values=cache)


@contextmanager
def _replaced(layers: torch.nn.ModuleList, forward: Callable[..., torch.Tensor]) -> Iterator[None]:
    for layer in layers:
        layer.forward = forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
