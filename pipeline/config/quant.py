"""`conf/quant`: weight and activation formats, and the engines that make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pipeline.config.base import SettingsGroup
from pipeline.formats.layouts import WeightLayout
from pipeline.formats.schemes import AWQ, GPTQ, MIXED, ROUND, SCHEMES, SIGNROUND, Scheme

# The engine of checkpoints that others quantized (`config.existing`).
EXISTING: Final = "existing"
# Settings that only a mix of formats has: what it is made of, and what it may take.
BUDGETS = ("bits", "size_gb", "gain_percent")
OF_MIXES = ("candidates", *BUDGETS)
# The engine of mixes, and the algorithms of their formats.
_MIXER, _OF_MIXER = "llmcompressor", (ROUND, GPTQ)


def own_format(quant: Mapping[str, Any]) -> str:
    """Return the engine or method whose own format a checkpoint has; empty for compressed-tensors.

    Args:
        quant: the checkpoint's settings, or those in a manifest.
    """
    named = str(quant.get("stored_as") or quant.get("engine", ""))
    return "" if named in ("llmcompressor", EXISTING) or named.endswith("-quantized") else named


def lacks(setting: str, value: object, scheme: str, engine: str) -> str:
    """Return why a scheme does not have a setting of this group, or not with this value; empty if it does.

    Args:
        setting: name of the setting.
        value: its value, as it is or as it is written.
        scheme: a key of `SCHEMES`.
        engine: the engine that makes it.
    """
    if scheme == MIXED:
        return _mix_lacks(setting, value)
    if setting in OF_MIXES:
        return f"{setting}={value} goes with scheme {MIXED}, not {scheme}"
    own = SCHEMES[scheme]
    if setting == "engine" and value not in own.engines:
        return f"engine={value} does not make {scheme}; {', '.join(own.engines)} can"
    if setting == "algorithm" and value not in (known := own.engines.get(engine, ())):
        return f"algorithm={value}: {engine} makes {scheme} by {', '.join(known)}"
    if setting == "group_size" and not own.group_is_free:
        return f"group_size={value}: scheme {scheme} has no configurable groups"
    if setting == "double_quant" and not own.nests:
        nested = ", ".join(name for name, each in SCHEMES.items() if each.nests)
        return f"double_quant={str(value).lower()} goes with scheme {nested}, not {scheme}"
    return ""


def _mix_lacks(setting: str, value: object) -> str:
    """Return why a mix of formats does not have a setting, or not with this value; empty if it does."""
    if setting == "engine" and value != _MIXER:
        return f"engine={value} does not make {MIXED}; {_MIXER} can"
    if setting == "algorithm" and value not in _OF_MIXER:
        return f"algorithm={value}: {_MIXER} makes {MIXED} by {', '.join(_OF_MIXER)}"
    if setting == "double_quant":
        return f"double_quant={str(value).lower()} does not go with scheme {MIXED}"
    return ""


class QuantSettings(SettingsGroup):
    """A weight and activation format, and the algorithm that makes it."""

    name: str = Field(description="name in variants, and of the folder under outputs/")
    title: str = Field(description="row label in the report")
    engine: str = Field("llmcompressor", description="quantization library; none: use the checkpoint unchanged")
    scheme: str | None = Field(
        None, description="number format of pipeline/formats/schemes.py; null if engine=none; MIXED: several"
    )
    algorithm: str = Field(
        "rtn",
        description="how weights are rounded: rtn (to nearest), gptq, awq, smoothquant, smoothquant_gptq or signround",
    )
    group_size: PositiveInt | None = Field(
        None,
        description="input channels that share a weight scale; null: the scheme's, or the largest of 64 and 32 that "
        "divides the model's sizes",
    )
    smoothing_strength: float = Field(0.5, ge=0, le=1, description="SmoothQuant's alpha")
    dampening: float = Field(0.01, gt=0, description="GPTQ's dampening, as a fraction of the Hessian's mean diagonal")
    double_quant: bool = Field(
        False, description="also quantize NF4's scales, to 8 bits in blocks of 256: saves 0.4 bits per weight"
    )
    ignore: tuple[str, ...] = Field(("lm_head",), description="modules left in BF16")
    candidates: tuple[str, ...] = Field(
        (),
        description="schemes that scheme=MIXED chooses from, beside BF16, as far as the target has kernels for them",
    )
    bits: PositiveFloat | None = Field(
        None, description="budget of scheme=MIXED: average bits of the decoder's weights, with their scales"
    )
    size_gb: PositiveFloat | None = Field(None, description="budget of scheme=MIXED instead: GB of all weights")
    gain_percent: PositiveFloat | None = Field(
        None, description="target of scheme=MIXED instead: gain in throughput over BF16 by the roofline, percent"
    )

    @model_validator(mode="before")
    @classmethod
    def _autorounds_only_algorithm(cls, given: Any) -> Any:
        """Let `quant=awq quant.engine=autoround` compare engines: AutoRound has one algorithm, which only it has."""
        takes_data = isinstance(given, dict) and given.get("algorithm") in (AWQ, GPTQ)
        if takes_data and given.get("engine") == "autoround":
            return {**given, "algorithm": SIGNROUND}
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> QuantSettings:
        if self.is_existing:
            return self  # nothing is asked of an engine
        if (self.engine == "none") != (self.scheme is None):
            raise ValueError("engine=none goes with scheme=null, any other engine needs a scheme")
        if self.scheme is None:
            return self
        if self.is_mixed:
            self._check_mix()
        elif self.scheme not in SCHEMES:
            raise ValueError(f"scheme={self.scheme}: unknown scheme; known are {', '.join(SCHEMES)}, {MIXED}")
        for setting in type(self).model_fields:
            value = getattr(self, setting)
            # None and False ask for nothing.
            if value not in (None, False, ()) and (reason := lacks(setting, value, self.scheme, self.engine)):
                raise ValueError(reason)
        return self

    def _check_mix(self) -> None:
        """Raise ValueError for candidates that cannot be mixed, and without just one budget."""
        if not self.candidates:
            raise ValueError(f"candidates=[]: scheme={MIXED} chooses from some of {', '.join(SCHEMES)}")
        known = [
            name
            for name, own in SCHEMES.items()
            if ROUND in own.engines.get(_MIXER, ()) and own.static is None and not own.per_tensor
        ]
        if unknown := [name for name in self.candidates if name not in known]:
            raise ValueError(f"candidates={unknown[0]}: formats that can be mixed are {', '.join(known)}")
        given = [f"{name}={getattr(self, name):g}" for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"scheme={MIXED} has one of {', '.join(BUDGETS)}, here {' and '.join(given) or 'none'}: set the others "
                "to null"
            )

    @property
    def is_mixed(self) -> bool:
        """True if each group of Linears has a format of its own."""
        return self.scheme == MIXED

    def candidate(self, scheme: str) -> QuantSettings:
        """Return the settings of one of the formats of a mix."""
        own = SCHEMES[scheme]
        return QuantSettings(
            name=scheme.lower(),
            title=scheme,
            scheme=scheme,
            algorithm=self.algorithm if self.algorithm in own.engines[self.engine] else ROUND,
            group_size=self.group_size if own.group_is_free else None,
            dampening=self.dampening,
            ignore=self.ignore,
        )

    def of(self, module: str) -> QuantSettings:
        """Return the settings of a module's own format: of a mix it depends on the module (`config.mixed`)."""
        return self

    @property
    def schemes(self) -> tuple[str, ...]:
        """The number formats that quantized modules may have."""
        return self.candidates if self.is_mixed else () if self.scheme is None else (self.scheme,)

    @property
    def format(self) -> Scheme | None:
        """The number format; None for the unchanged checkpoint, and for several."""
        return None if self.scheme is None or self.is_mixed else SCHEMES[self.scheme]

    @property
    def whole_bits(self) -> int | None:
        """Whole bits of a stored weight, as engines take them; None for the unchanged checkpoint."""
        return None if self.format is None else int(self.format.bits)

    @property
    def effective_group_size(self) -> int | None:
        """Input channels that share a weight scale; None if the scheme has no groups."""
        return None if self.format is None else self.group_size or self.format.group

    @property
    def is_existing(self) -> bool:
        """True if others quantized the checkpoint, so that its faults are not this project's."""
        return False

    @property
    def layout(self) -> WeightLayout | None:
        """The storage layout of a weight; None for the unchanged checkpoint and for files that mix blocks."""
        return None if self.format is None else self.format.layouts.get(self.engine)

    @property
    def own_format(self) -> str:
        """The engine or method whose own format the checkpoint has; empty for compressed-tensors."""
        return own_format(vars(self))

    @property
    def static_activations(self) -> str | None:
        """The format of activations with scales from calibration; None if there are none."""
        return None if self.format is None else self.format.static

    @property
    def takes_tokens(self) -> bool:
        """True if the engine reads calibration tokens, or the sensitivities of a mix are measured on them."""
        return self.algorithm != ROUND or self.is_mixed or (self.format is not None and self.format.shown_tokens)

    @property
    def needs_data(self) -> bool:
        """True if the weights or activation scales depend on calibration data."""
        return self.static_activations is not None or self.takes_tokens
