"""A quantized checkpoint beside the BF16 checkpoint it was made of, with what an algorithm rescaled undone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch

from pipeline.config import QuantSettings
from pipeline.errors import UnknownFormat
from pipeline.formats.schemes import AWQ, RESCALING, UNKNOWN
from pipeline.models.architecture import read_config
from pipeline.models.dequantize import Tensors, Weights
from pipeline.models.existing import as_stored
from pipeline.models.headers import headers, quantized_modules
from pipeline.models.mappings import makers, rescaled_by
from pipeline.models.rescaling import Factors, norm_offset


class Pair:
    """Tensors of both checkpoints, each read on access."""

    def __init__(self, folder: Path, source: Path, quant: QuantSettings, device: str = "cpu") -> None:
        """Read headers only; tensors are loaded to `device`.

        Args:
            folder: the quantized checkpoint.
            source: the BF16 checkpoint.
            quant: how the one was made of the other.
            device: where tensors are loaded to.
        """
        self.folder, self.quant, self.config = folder, as_stored(quant, folder, source), read_config(source)
        self.before, self.after = Tensors(source, device), Tensors(folder, device)
        self.modules = quantized_modules(folder)
        found = {name: tuple(item["shape"]) for name, item in headers(source).items()}
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name.removesuffix(".weight"): shape for name, shape in found.items() if name.endswith(".weight")
        }

    @cached_property
    def images(self) -> Weights:
        """Dequantized weights of the quantized modules.

        Raises:
            UnknownFormat: if the format cannot be decoded.
        """
        return Weights(self.folder, self.before.device)

    @cached_property
    def factors(self) -> Factors:
        """Factors that AWQ or SmoothQuant moved from the layers in front; 1 after other algorithms.

        Raises:
            UnknownFormat: if the engine's mapping of the architecture is not known.
        """
        quant, pairs = self.quant, dict[str, str]()
        if self._rescaling:
            pairs = rescaled_by(self.config, self.shapes, self._rescaling, quant.engine)
        return Factors(
            pairs,
            norm_offset(self.config),
            original=lambda name: self.before[name].float(),
            stored=lambda name: self.after[name].float(),
            weight=self._image,
        )

    @cached_property
    def _rescaling(self) -> str:
        """The algorithm whose mapping weights were rescaled by; empty if they were not.

        Where others do not say how they rounded, it shows in the norms, which any such algorithm divides.
        """
        if self.quant.algorithm != UNKNOWN:
            return RESCALING.get(self.quant.algorithm, "")
        norms = (f"{module}.weight" for module, shape in self.shapes.items() if len(shape) == 1)
        is_divided = any(not self._is_equal(name, self.after[name]) for name in norms if name in self.after)
        return AWQ if is_divided else ""

    def _is_equal(self, name: str, image: torch.Tensor) -> bool:
        return torch.equal(image, self.before[name].to(image.dtype))

    def _image(self, module: str) -> torch.Tensor:
        return self.images[module] if module in self.modules else self.after[f"{module}.weight"].float()

    def dead(self, module: str) -> torch.Tensor | None:
        """Return a mask of a module's input channels that the norm in front keeps at zero; None if it keeps none so.

        No activation says how to round their weights: an algorithm with data may set them to anything.
        """
        if self.quant.algorithm == "rtn" or not self._zeros:
            return None
        return self._zeros.get(self._makers.get(module, ""))

    @cached_property
    def _zeros(self) -> dict[str, torch.Tensor]:
        offset = norm_offset(self.config)
        norms = (module for module, shape in self.shapes.items() if len(shape) == 1)
        zeros = {norm: self.before[f"{norm}.weight"].float() + offset == 0 for norm in norms}
        return {norm: mask for norm, mask in zeros.items() if bool(mask.any())}

    @cached_property
    def _makers(self) -> dict[str, str]:
        return makers(self.config, self.shapes)

    def is_kept(self, name: str, image: torch.Tensor) -> bool:
        """Return whether an unquantized tensor is BF16's, bit for bit, or that times its module's factors.

        Raises:
            UnknownFormat: if it differs, and the engine's mapping of the architecture is not known.
        """
        if image.shape != self.before[name].shape:
            return False
        is_equal = self._is_equal(name, image)
        if not self._rescaling or ".layers." not in name:
            return is_equal
        try:
            rescaled = self._rescaled(name)
        except UnknownFormat:
            if is_equal:
                return True
            raise
        if rescaled is None:
            return is_equal
        expected, tolerance = rescaled
        return bool(((image.float() - expected).abs() <= tolerance * expected.abs()).all())

    def _rescaled(self, name: str) -> tuple[torch.Tensor, torch.Tensor | float] | None:
        """Return an unquantized tensor times its module's factors, and their relative error; None if it has none.

        Routers and ignored Linears behind a divided layer are multiplied, biases of a divided layer are divided. The
        divided norms say what the factors are, so an error of theirs shows in the weights behind.
        """
        module, _, own = name.rpartition(".")
        factors = self.factors
        if module in factors.divided and (own == "bias" or len(self.shapes[module]) == 1):
            divided = self.before[name].float() * factors.outputs(module) if own == "bias" else self.after[name].float()
            return divided, factors.precision(module)
        if own == "weight" and (module in factors.pairs or module in factors.divided):
            tolerance = factors.precision(factors.pairs.get(module, module)) + factors.noise(module)
            return self.before[name].float() * factors.of(module), tolerance
        return None
