"""The arithmetic of a layer with 8-bit weights and 8-bit activations, FP8 or INT8: torch only.

For weights w = s_w * W and activations x = s_x * X, with W and X on the 8-bit grid, a GPU's kernel
returns, in the model's type,

    y = round(s_x * (s_w * sum_k X_k W_k) + b)

with the sum in float32 (or an integer). The emulation computes the same expression with the same
grid values. It differs only in the order of the sum and in where that is rounded:

- float32 products (no BF16 arithmetic in the processor, or a model that is not BF16): nowhere else,
  so the result is the GPU kernel's but for the sum's own error of some 2^-24. (With a static scale,
  s_x * s_w is taken first; the number of float32 roundings is the same.)
- BF16 products (AVX-512 or AMX): oneDNN rounds the sum to BF16 before the scales are applied. With
  u = 2^-8 the unit roundoff of BF16, y' = y (1 + d1)(1 + d2), |d| <= u, in place of y (1 + d1): one
  BF16 rounding more, |y' - y| <= (2 u + u^2) |y| for the exact y, without a bias.
"""

from collections.abc import Callable

import torch

Product = Callable[[torch.Tensor], torch.Tensor]
StaticQuantizer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
DynamicQuantizer = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class W8A8Linear:
    """A linear layer from a product of grid values, their scales and a quantizer of activations."""

    def __init__(
        self,
        product: Product,
        weight_scale: torch.Tensor,
        input_scale: torch.Tensor | None,
        quantize_static: StaticQuantizer,
        quantize_dynamic: DynamicQuantizer,
    ) -> None:
        """Combine the scales once.

        Args:
            product: Multiplies grid values, of shape (rows, in) and float32, with the weight's.
            weight_scale: One, or one for each output.
            input_scale: One, or None for a dynamic scale for each row.
            quantize_static: Takes values and the reciprocal of their scale to the grid.
            quantize_dynamic: Takes values to the grid and returns each row's scale too.
        """
        self._product = product
        self._static = quantize_static
        self._dynamic = quantize_dynamic
        self._scale = weight_scale.to(torch.float32).reshape(1, -1).contiguous()
        self._inverse: torch.Tensor | None = None
        if input_scale is not None:
            input_scale = input_scale.to(torch.float32).reshape(1, 1)
            self._inverse = input_scale.reciprocal()
            self._scale = self._scale * input_scale

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """Return the layer's output, of shape (..., out) and of `dtype`, for `x` of shape (..., in)."""
        rows = x.reshape(-1, x.shape[-1])
        if self._inverse is not None:
            out = torch.mul(self._product(self._static(rows, self._inverse)), self._scale)
        else:
            grid, row_scale = self._dynamic(rows)
            out = torch.mul(self._product(grid), self._scale).mul_(row_scale)
        if bias is not None:
            out += bias
        return out.to(dtype).reshape(*x.shape[:-1], out.shape[-1])
