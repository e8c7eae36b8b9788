"""Dequantized weights of a checkpoint in any format, one module in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from pipeline.errors import InputError, MissingTensor
from pipeline.formats import unpack_gguf
from pipeline.formats.layouts import layout_of
from pipeline.models.headers import (
    Quantization,
    by_module,
    gguf_file,
    layout_name,
    packed_bits,
    quantization_config,
    quantized_modules,
)
from pipeline.models.safetensors import tensor_files


class Tensors:
    """Tensors of a checkpoint's safetensors files, each read on access."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Read headers only; tensors are loaded to `device`."""
        self.files = tensor_files(folder)
        self.device = device

    def __contains__(self, name: str) -> bool:
        """Return whether there is a tensor with that name."""
        return name in self.files

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return a tensor as it is stored.

        Raises:
            MissingTensor: if there is none.
        """
        from safetensors import safe_open

        if name not in self.files:
            raise MissingTensor(name)

        with safe_open(self.files[name], framework="pt", device=self.device) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor


class _Stored(dict[str, torch.Tensor]):
    """Tensors of a module by name; the error for a missing one has its full name."""

    def __init__(self, prefix: str, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__(tensors)
        self._prefix = prefix

    def __missing__(self, name: str) -> torch.Tensor:
        raise MissingTensor(self._prefix + name)


class Weights:
    """Weights of a checkpoint's quantized modules, each read on access."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """Read headers only; weights are loaded to `device`.

        Raises:
            UnknownFormat: if the format cannot be decoded.
        """
        self.modules = sorted(quantized_modules(folder))
        path = gguf_file(folder)
        self._blocks = unpack_gguf.tensors(path) if path else {}
        self._tensors = Tensors(folder, device)
        self._parts: dict[str, list[str]] = {module: [] for module in self.modules}
        for name in self._tensors.files:
            # A module's tensors are named below it: `<module>.qweight`, `<module>.weight.absmax`.
            owner = name
            while owner and owner not in self._parts:
                owner = owner.rpartition(".")[0]
            if owner:
                self._parts[owner].append(name)
        own = by_module(quantization_config(folder))
        self._configs = {module: own(module) for module in self.modules}
        self._layouts = {} if self._blocks else {m: layout_of(layout_name(c)) for m, c in self._configs.items()}

    def __getitem__(self, module: str) -> torch.Tensor:
        """Return a module's weight, float32 of shape (out, in).

        Raises:
            MissingTensor: if a tensor of the module's format is missing.
            InputError: if the module's tensors do not fit each other, or the config.
        """
        if self._blocks:
            return unpack_gguf.weight(self._blocks[f"{module}.weight"]).to(self._tensors.device)
        own = {name.removeprefix(f"{module}."): self._tensors[name] for name in self._parts[module]}
        try:
            weight = self._layouts[module].unpack(_Stored(f"{module}.", own), packed_bits(self._configs[module]))
        except (RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
            raise InputError(f"{module}: its tensors do not fit each other or config.json ({error})") from None
        group = _group(self._configs[module])
        if group > 0 and (groups := _groups(own)) * group != weight.shape[1]:
            raise InputError(f"{module}: config.json says groups of {group}, and it has {groups} for each row")
        return weight

    def block_format(self, module: str) -> str | None:
        """Return a module's own format if a file mixes several (llama.cpp's, such as Q6_K)."""
        return str(self._blocks[f"{module}.weight"].tensor_type.name) if self._blocks else None


def _group(config: Quantization) -> int:
    """Return the input channels that share a scale; not positive if the format has no such groups."""
    groups = config.get("config_groups")
    size = next(iter(groups.values()))["weights"].get("group_size") if groups else config.get("group_size")
    return size or 0


def _groups(tensors: Mapping[str, torch.Tensor]) -> int:
    """Return the number of groups in a row, by the shape of the scales."""
    return tensors["scales"].shape[0] if "scales" in tensors else tensors["weight_scale"].shape[-1]
