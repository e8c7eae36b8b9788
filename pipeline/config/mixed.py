"""A mix of number formats whose choice is made; `quant.scheme=MIXED` has what it is made from, and the budget."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from pipeline.config.quant import QuantSettings


class ChosenSettings(QuantSettings):
    """A mix with the format of each module; BF16 ones are in `ignore`."""

    formats: Mapping[str, str] = Field(description="scheme of each quantized module")

    @classmethod
    def of_mix(cls, quant: QuantSettings, formats: Mapping[str, str], kept: tuple[str, ...]) -> ChosenSettings:
        """Return the settings of a mix with its choice.

        Args:
            quant: the settings of the mix.
            formats: scheme of each quantized module.
            kept: the modules that were chosen to stay in BF16.
        """
        ignore = tuple(dict.fromkeys([*quant.ignore, *kept]))
        return cls(**{**quant.model_dump(), "ignore": ignore, "formats": formats})

    def of(self, module: str) -> QuantSettings:
        """Return the settings of a module's own format."""
        return self.candidate(self.formats[module])

    @property
    def takes_tokens(self) -> bool:
        """True if one of the formats that were chosen reads calibration tokens."""
        return any(self.candidate(scheme).takes_tokens for scheme in self.schemes)

    @property
    def schemes(self) -> tuple[str, ...]:
        """The number formats that were chosen, in the order of the candidates."""
        return tuple(name for name in self.candidates if name in self.formats.values())
