"""Rescaling factors of AWQ and SmoothQuant, recovered from the layer in front of each weight.

Both leave the model's function as it was: they multiply the columns of a weight by s, one factor an input channel, and
divide what makes those channels by the same s (Lin et al., "AWQ", 2023, section 3.2; Xiao et al., "SmoothQuant", 2022,
section 4). So s is in the checkpoint a second time, and a weight is compared with BF16's by dividing its columns by it:

* behind a norm, s is the norm's BF16 weight over its new one, exact up to the rounding of both to BF16 (2^-9 each);
* behind a Linear (v_proj in front of o_proj, up_proj in front of down_proj), which is quantized itself, s is the least
  squares factor between a row of BF16's weight and the row that is stored. Its relative error is that of the row over
  the square root of the row's length: below a tenth of a weight's own error from 100 inputs on.

A factor that was forgotten on either side, or put on another channel, is therefore an error of the weight behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pipeline.errors import MissingTensor, UnknownFormat

# A module's own name -> the norm that makes its inputs; (out, in) of all as in Llama.
NORMS: Mapping[str, str] = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
}
# A module's own name -> the Linear whose outputs are its inputs, or their factor.
PRODUCERS: Mapping[str, str] = {"self_attn.o_proj": "self_attn.v_proj", "mlp.down_proj": "mlp.up_proj"}
# Its norms multiply by one plus the stored weight.
OTHERWISE = "gemma"

Read = Callable[[str], torch.Tensor]


class Factors:
    """Factors of the input channels of each weight of a rescaled checkpoint."""

    def __init__(self, config: Mapping[str, Any], original: Read, stored: Read, weight: Read) -> None:
        """Compute factors on access.

        Args:
            config: config of the model.
            original: a tensor of the BF16 checkpoint by name, float32.
            stored: a tensor of the quantized checkpoint by name, float32.
            weight: a module's dequantized weight by the module's name, float32 of shape (out, in).

        Raises:
            UnknownFormat: if the model's layer structure is not supported.
        """
        kind = str(config.get("model_type", ""))
        if kind.startswith(OTHERWISE):
            raise UnknownFormat(f"{kind}: which norm is in front of which weight")
        self._config, self._original, self._stored, self._weight = config, original, stored, weight

    def inputs(self, module: str) -> torch.Tensor:
        """Return the factor of each input channel, of shape (in,).

        Raises:
            UnknownFormat: if the module is unknown.
        """
        layer, own = split(module)
        if own in NORMS:
            return self._norm(f"{layer}.{NORMS[own]}.weight")
        if own not in PRODUCERS:
            raise UnknownFormat(f"{module}: what makes its inputs")
        factors = 1 / self.outputs(f"{layer}.{PRODUCERS[own]}")
        return self._for_each_head(factors) if own == "self_attn.o_proj" else factors

    def outputs(self, module: str) -> torch.Tensor:
        """Return the factor of each output channel, of shape (out,): 1 if nothing behind it was rescaled."""
        _, own = split(module)
        original = self._before(f"{module}.weight")
        if own not in PRODUCERS.values():
            return original.new_ones(len(original))
        # Fit the rescaled weights, as they were rounded: there every input has the same error.
        moved = original * self.inputs(module)
        return (self._weight(module) * moved).sum(1) / moved.square().sum(1).clamp_min(1e-30)

    def _norm(self, name: str) -> torch.Tensor:
        before, after = self._before(name), self._stored(name)
        # An all-zero channel stays zero, whatever it is divided by.
        return torch.where(before == after, torch.ones_like(before), before / after)

    def _before(self, name: str) -> torch.Tensor:
        """Return a tensor of the BF16 checkpoint; if it is missing, the layer structure is not supported."""
        try:
            return self._original(name)
        except MissingTensor:
            raise UnknownFormat(f"{name} is not in the BF16 checkpoint: what is in front of which weight") from None

    def _for_each_head(self, factors: torch.Tensor) -> torch.Tensor:
        """Repeat each value head's factors for the consecutive query heads that share it."""
        heads = int(self._config["num_attention_heads"])
        groups = int(self._config.get("num_key_value_heads", heads))
        return factors.reshape(groups, -1).repeat_interleave(heads // groups, dim=0).flatten()


def split(module: str) -> tuple[str, str]:
    """Return the layer of a module, and its name within the layer: `model.layers.3`, `mlp.up_proj`."""
    parts = module.split(".")
    return ".".join(parts[:-2]), ".".join(parts[-2:])


# Algorithms that scale weights by activation statistics, and divide the layer in front by the same (`rescaling`).
RESCALING = ("awq", "smoothquant")
