"""Observers on the input of every quantizable Linear, and on the keys and values that a KV cache would hold.

Linears that are given the same tensor (q, k and v; gate and up) share a site and are observed once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

from pipeline.config import CalibrationSettings
from pipeline.errors import InputError, StageError
from pipeline.models.loading import stored_modules
from pipeline.models.modules import is_beside
from pipeline.stages.calibrate.histograms import Sketch, commit_all

LM_HEAD = "lm_head"
KEYS, VALUES = "k", "v"
# Padded tokens of a batch on a GPU, which are enough to fill it.
BATCH_TOKENS = 8192
# Names of attention modules, or of their classes.
_ATTENTION = re.compile("attn|attention", re.IGNORECASE)
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass
class ObservedSite:
    """One observed tensor: its name, the modules whose input it is, and its statistics.

    Attributes:
        name: the first of its modules, or `<attention module>.k` and `.v`.
        modules: every Linear that is given this tensor; empty for keys and values.
    """

    name: str
    sketch: Sketch
    modules: list[str] = field(default_factory=list)

    @property
    def layer(self) -> int | None:
        """Number of the decoder layer, if the name has one."""
        found = _LAYER.search(self.name)
        return int(found[1]) if found else None

    @property
    def kind(self) -> str:
        """Display name of the module kind: `q/k/v_proj`, `down_proj`, `K`."""
        if not self.modules:
            return self.name.rpartition(".")[2].upper()
        names = [name.rpartition(".")[2] for name in self.modules]
        stems = [name.removesuffix("_proj") for name in names]
        return "/".join(stems) + ("_proj" if all(name.endswith("_proj") for name in names) else "")


def checkpoints(samples: int) -> list[int]:
    """Return the numbers of samples at which ranges are evaluated: powers of two, and every tenth of all."""
    powers = {1 << exponent for exponent in range(samples.bit_length())}
    tenths = {math.ceil(samples * tenth / 10) for tenth in range(1, 11)}
    return sorted(number for number in powers | tenths if number <= samples)


class Observers:
    """All sites of a model, and the hooks that feed them."""

    def __init__(self, model: torch.nn.Module, settings: CalibrationSettings, samples: int) -> None:
        """Attach to `model` (which may still be without weights) for that many samples."""
        self.sites: dict[str, ObservedSite] = {}
        self._settings = settings
        self._config = getattr(model, "config", None)
        self._snapshots = frozenset(checkpoints(samples))
        self._lengths: tuple[int, ...] = ()
        self._last: tuple[torch.Tensor, ObservedSite] | None = None
        self._touched: dict[str, ObservedSite] = {}
        self._unsettled: list[ObservedSite] = []
        # By their names in the checkpoint, as the gate and the engines' results have them.
        modules = stored_modules(model)
        self._attentions = {
            int(module.layer_idx): name
            for name, module in modules.items()
            if isinstance(getattr(module, "layer_idx", None), int)
            and _ATTENTION.search(f"{name.rpartition('.')[2]} {type(module).__name__}")
            and not is_beside(name)
        }
        self._handles: dict[str, RemovableHandle] = {}
        for name, module in modules.items():
            if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] != LM_HEAD:
                self._handles[name] = module.register_forward_pre_hook(self._hook(name))

    def batches(self, lengths: Sequence[int], device: str) -> list[range]:
        """Return the samples that pass the model together; one after which ranges are evaluated ends a batch."""
        size, limit = self._settings.batch_size or 1, math.inf
        if self._settings.batch_size is None and device == "cuda":
            size, limit = len(lengths), BATCH_TOKENS
        if _is_rotated_by_length(self._config):
            size = 1
        found, first = list[range](), 0
        for end in range(1, len(lengths) + 1):
            further = lengths[first : end + 1]
            is_full = len(further) > size or len(further) * max(further) > limit
            if end in self._snapshots or end == len(lengths) or is_full:
                found.append(range(first, end))
                first = end
        return found

    def begin(self, lengths: Sequence[int]) -> None:
        """Begin a batch of samples of these lengths, padded behind to the longest."""
        self._lengths = tuple(lengths)

    def cache(self) -> ObservedCache:
        """Return a KV cache for one forward pass that passes keys and values to the observers and stores none."""
        return ObservedCache(self, self._config)

    def commit(self, first: int) -> None:
        """End a batch of samples, of which the first has that number.

        Raises:
            InputError: when NaN or Inf entered a site.
        """
        self._last = None
        touched, self._touched = self._touched, {}
        ended = commit_all([site.sketch for site in touched.values()])
        extremes = {name: seen for name, seen in zip(touched, ended, strict=True) if seen is not None}
        if not extremes:
            return
        # One transfer for all sites: on a GPU every read of a value synchronizes.
        is_finite = torch.isfinite(torch.cat([seen.flatten() for seen in extremes.values()])).cpu()
        if bool(is_finite.all()):
            return
        bad, seen = next((name, seen) for name, seen in extremes.items() if not bool(torch.isfinite(seen).all()))
        place = int((~torch.isfinite(seen)).flatten(1).any(1).nonzero()[0])
        raise InputError(
            f"NaN or Inf enters {bad} on calibration sample {first + place}.",
            "The checkpoint is damaged, or its dtype overflows: try another checkpoint, or leave that conversation "
            "out (calibration.seed draws others).",
        )

    def settle(self) -> None:
        """Move the statistics of all samples so far to host memory: those of a layer that has seen every sample."""
        for site in self._unsettled:
            site.sketch.settle()
        self._unsettled.clear()

    def see_cache(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> None:
        """Add keys and values of shape (samples, heads, tokens, channels).

        Raises:
            StageError: when no attention module has the number of the layer.
        """
        if layer not in self._attentions:
            raise StageError(
                f"Layer {layer} fills a KV cache, but no module of that number is known as attention, by whose "
                "name vLLM reads the scales of keys and values.",
                "Calibrate another architecture, or choose formats without calibration (fp8_dynamic, w4a16).",
            )
        for letter, tensor in ((KEYS, keys), (VALUES, values)):
            name = f"{self._attentions[layer]}.{letter}"
            site = self.sites.get(name) or self._add(name, groups=tensor.shape[1])
            self._see(site, tensor.detach().transpose(1, 2).flatten(2))

    def detach(self) -> None:
        """Remove all hooks."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()

    def __iter__(self) -> Iterator[ObservedSite]:
        """Iterate over the sites by layer, in the order of the model."""
        return iter(sorted(self.sites.values(), key=lambda site: -1 if site.layer is None else site.layer))

    def _hook(self, name: str) -> Any:
        def see(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            site = self.sites.get(name)
            if site is None:
                if self._last is not None and self._last[0] is inputs[0]:
                    # The same tensor as the previous module's: the two share its site.
                    self._last[1].modules.append(name)
                    self._handles.pop(name).remove()
                    return
                site = self._add(name)
                site.modules.append(name)
            self._last = (inputs[0], site)
            self._see(site, inputs[0])

        return see

    def _add(self, name: str, groups: int = 1) -> ObservedSite:
        settings = self._settings
        sketch = Sketch(groups, settings.averaging_constant, settings.histogram_tokens, self._snapshots)
        self.sites[name] = ObservedSite(name, sketch)
        self._unsettled.append(self.sites[name])
        return self.sites[name]

    def _see(self, site: ObservedSite, values: torch.Tensor) -> None:
        site.sketch.update(*self._samples(site, values))
        self._touched[site.name] = site

    def _samples(self, site: ObservedSite, values: torch.Tensor) -> list[torch.Tensor]:
        """Return the tokens of each sample, without the padding behind them."""
        number = len(self._lengths)
        if number < 2:
            return [values]
        tokens = values.reshape(-1, values.shape[-1])
        if tokens.shape[0] != number * max(self._lengths):
            raise StageError(
                f"{site.name} is given {tokens.shape[0]} tokens of a batch of {number} samples of up to "
                f"{max(self._lengths)}: whose they are is not known.",
                "Set calibration.batch_size=1.",
            )
        padded = tokens.view(number, -1, values.shape[-1])
        return [sample[:length] for sample, length in zip(padded, self._lengths, strict=True)]


def _is_rotated_by_length(config: Any) -> bool:
    """Return whether positions are encoded by the length of the longest sequence of a batch."""
    text = config.get_text_config() if config is not None else None
    parameters = getattr(text, "rope_parameters", None) or {}
    kinds = [parameters, *(each for each in parameters.values() if isinstance(each, dict))]
    return any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds)


class ObservedCache(DynamicCache):  # type: ignore[misc]
    """KV cache that passes keys (after rotation) and values to the observers and stores nothing.

    The states of linear attention pass through it as well: no layer has a previous state in a first pass.
    """

    def __init__(self, observers: Observers, config: Any) -> None:
        """Create the cache of one forward pass of a model of that config, which says what each layer would store."""
        super().__init__(config=config)
        self._observers = observers

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pass keys and values to the observers and return them."""
        self._observers.see_cache(key_states, value_states, layer_idx)
        return key_states, value_states

    def update_conv_state(self, conv_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the input of a convolution, which nothing precedes."""
        return conv_states

    def update_recurrent_state(self, recurrent_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the state of a linear attention."""
        return recurrent_states
