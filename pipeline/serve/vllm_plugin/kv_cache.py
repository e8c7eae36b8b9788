"""An FP8 KV cache for processors whose attention kernel has none: FP8 values in a wider cache.

vLLM's CPU attention stores FP8 only with AVX-512 or AMX, and refuses to start otherwise. The backend
here accepts the same `--kv-cache-dtype fp8_e4m3` (or `fp8`, `fp8_e5m2`, or a checkpoint's own
`kv_cache_scheme`), rounds K / s_k and V / s_v to the FP8 grid before they enter a cache of the
model's type (which holds every FP8 value exactly), and applies the scales where a kernel would:

    scores = (scale * s_k) * Q . round(K / s_k)        output = s_v * (P . round(V / s_v))

s_k and s_v are the checkpoint's calibrated scales, else 1. The scores are as exact as those of an
unquantized cache; the output is rounded to the model's type once more when s_v is not 1. Rounding is
to nearest, ties to even, and saturates, as on a GPU. (vLLM's own AVX-512 and AMX kernels cut the
extra bits off instead, which doubles the largest error: `PIPELINE_EMULATE_KV_CACHE=always` takes
this backend there too.) No memory is saved.

It takes the place of vLLM's CPU backend through vLLM's registry of attention backends. For an
unquantized cache it adds nothing.
"""

import copy
import os
from typing import Any, ClassVar

import torch
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadataBuilder,
)

from pipeline.serve.vllm_plugin import announce, fp8
from pipeline.serve.vllm_plugin.log_lines import KV_CACHE_E4M3, KV_CACHE_E5M2

SWITCH = "PIPELINE_EMULATE_KV_CACHE"
_FORMATS = {"fp8": fp8.E4M3, "fp8_e4m3": fp8.E4M3, "fp8_e5m2": fp8.E5M2}
_NAMES = {"e4m3": KV_CACHE_E4M3, "e5m2": KV_CACHE_E5M2}


def wanted() -> bool:
    """Tell whether this process should emulate: by the switch, else by what the processor lacks."""
    choice = os.environ.get(SWITCH, "auto")
    if choice not in ("auto", "always", "never"):
        announce.not_patched("the KV cache", f"{SWITCH}={choice} is not auto, always or never")
    if choice == "auto":
        return not (torch.cpu._is_avx512_supported() or torch.cpu._is_amx_tile_supported())
    return choice == "always"


def on_grid(values: torch.Tensor, inverse_scale: torch.Tensor, fmt: fp8.Fp8Format) -> torch.Tensor:
    """Return `values / scale` rounded to the format's grid, in the type of `values`."""
    return fp8.quantize_static(values, inverse_scale, fmt).to(values.dtype)


def _inverse(scale: float) -> torch.Tensor:
    # vLLM builds models under a default type that is the model's.
    return torch.tensor([scale], dtype=torch.float32).reciprocal()


class EmulatedCpuAttentionImpl(CPUAttentionBackendImpl):  # type: ignore[misc]
    """CPU attention whose keys and values pass through the FP8 grid."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        kv_cache_dtype: str,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Remember the FP8 format and present an unquantized cache to vLLM's implementation."""
        self._format = _FORMATS.get(kv_cache_dtype)
        self._context = get_current_vllm_config().compilation_config.static_forward_context
        super().__init__(
            num_heads,
            head_size,
            scale,
            num_kv_heads,
            alibi_slopes,
            sliding_window,
            "auto" if self._format else kv_cache_dtype,
            *args,
            **kwargs,
        )
        self._unscaled = float(scale)
        self._value_scale = 1.0
        self._inverse_key = self._inverse_value = _inverse(1.0)

    def process_weights_after_loading(self, act_dtype: torch.dtype) -> None:
        """Take the layer's scales over and make its cache one of the model's type."""
        super().process_weights_after_loading(act_dtype)
        if self._format is None:
            return
        layer = next(x for x in self._context.values() if getattr(x, "impl", None) is self)
        self.scale = self._unscaled * layer._k_scale_float
        self._value_scale = layer._v_scale_float
        self._inverse_key = _inverse(layer._k_scale_float)
        self._inverse_value = _inverse(layer._v_scale_float)
        layer.kv_cache_torch_dtype = act_dtype
        layer.kv_cache_dtype = "auto"
        announce.emulated(_NAMES[self._format.name])

    def do_kv_cache_update(
        self,
        layer: torch.nn.Module,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Round keys and values to the grid and store them."""
        if self._format is not None:
            key = on_grid(key, self._inverse_key, self._format)
            value = on_grid(value, self._inverse_value, self._format)
        super().do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Any,
        output: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attend over the rounded keys and values, and give the output its value scale."""
        result: torch.Tensor = super().forward(
            layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs
        )
        cached = self.attn_type not in (AttentionType.ENCODER, AttentionType.ENCODER_ONLY)
        if attn_metadata is not None and cached and self._value_scale != 1.0:
            output[: attn_metadata.num_actual_tokens].mul_(self._value_scale)
        return result


class EmulatedCpuAttentionMetadataBuilder(CPUAttentionMetadataBuilder):  # type: ignore[misc]
    """The metadata of an unquantized cache, which is what the emulation has."""

    def __init__(
        self,
        kv_cache_spec: Any,
        layer_names: list[str],
        vllm_config: VllmConfig,
        device: torch.device,
    ) -> None:
        """Hide the FP8 cache from vLLM's builder, in copies: others read the configuration too."""
        if vllm_config.cache_config.cache_dtype in _FORMATS:
            vllm_config = copy.copy(vllm_config)
            vllm_config.cache_config = copy.copy(vllm_config.cache_config)
            vllm_config.cache_config.cache_dtype = "auto"
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)


class EmulatedCpuAttentionBackend(CPUAttentionBackend):  # type: ignore[misc]
    """vLLM's CPU attention with an emulated FP8 KV cache."""

    supported_kv_cache_dtypes: ClassVar[list[str]] = ["auto", *_FORMATS]

    @staticmethod
    def get_impl_cls() -> type[EmulatedCpuAttentionImpl]:
        """Return the implementation."""
        return EmulatedCpuAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[EmulatedCpuAttentionMetadataBuilder]:
        """Return the builder of its metadata."""
        return EmulatedCpuAttentionMetadataBuilder
