"""GGUF layers on a CPU, where vLLM's GGUF plugin (a package of its own) has kernels for CUDA and Triton only.

The plugin registers the format and reads the file; here its layers turn their blocks into the model's type at load,
with llama.cpp's own Python decoder, and multiply like an unquantized layer. A GPU's kernels round activations to
blocks of 8 bits besides; the format does not ask for that, and it is not imitated. It saves no memory.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch

from pipeline.serve.vllm_plugin import announce
from pipeline.serve.vllm_plugin.log_lines import GGUF
from pipeline.serve.vllm_plugin.products import dense, freed

PACKAGE = "vllm_gguf_plugin"


def install() -> None:
    """Put the layers into the GGUF plugin, and register that where it could not be imported; nothing without it."""
    if importlib.util.find_spec(PACKAGE) is None:
        return
    # Importing the plugin's kernels needs Triton, which a CPU has no use for: nothing here calls them.
    sys.modules[f"{PACKAGE}.ops"] = _NoKernels(f"{PACKAGE}.ops")
    plugin = importlib.import_module(PACKAGE)
    linear = importlib.import_module(f"{PACKAGE}.quantization.linear").GGUFLinearMethod
    embedding = importlib.import_module(f"{PACKAGE}.quantization.vocal_embeds").GGUFEmbeddingMethod
    linear.process_weights_after_loading = _decode
    linear.apply = _multiply
    embedding.process_weights_after_loading = _decode_table
    embedding.embedding = _look_up
    plugin.register()


class _NoKernels(ModuleType):
    """Stand-in for the plugin's kernels; a request for one (experts) raises an error."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImplementedError(f"{name}: GGUF layers of this kind have no CPU code")


def decode(blocks: torch.Tensor, kind: int) -> torch.Tensor:
    """Return the numbers of shape (out, in), as float32, that blocks of a llama.cpp format stand for.

    Args:
        blocks: Bytes of shape (out, bytes of a row); numbers for the formats without blocks.
        kind: Llama.cpp's number of the format.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    if blocks.dtype.is_floating_point:
        return blocks.to(torch.float32)
    return torch.from_numpy(dequantize(blocks.cpu().numpy(), GGMLQuantizationType(kind)))


def _decoded(method: Any, layer: Any) -> torch.Tensor:
    """Return a layer's whole weight in the model's type, and free its blocks."""
    method._materialize_gguf_parameters(layer)
    blocks, kinds = layer.qweight, layer.qweight_type
    parts = [(blocks.data, kinds.weight_type)]
    if blocks.data_container:
        names = sorted(blocks.shard_id, key=lambda name: {"q": 0, "k": 1, "v": 2}.get(name, name))
        parts = [
            (blocks.data_container[blocks.shard_id_map[name]], kinds.shard_weight_type.get(name, kinds.weight_type))
            for name in names
        ]
    weight = torch.cat([decode(*part).to(method.params_dtype) for part in parts])
    layer.qweight = freed(blocks)
    announce.emulated(GGUF)
    return weight


def _decode(self: Any, layer: Any) -> None:
    layer.gguf_linear = dense(_decoded(self, layer))


def _decode_table(self: Any, layer: Any) -> None:
    layer.gguf_table = _decoded(self, layer)


def _multiply(self: Any, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if not hasattr(layer, "gguf_linear"):  # a table that is also, or only, the output layer
        layer.gguf_linear = dense(layer.gguf_table)
    return layer.gguf_linear(x, bias)  # type: ignore[no-any-return]


def _look_up(self: Any, layer: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.embedding(layer.gguf_table, x)
