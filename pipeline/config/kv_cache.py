"""`conf/kv_cache`: how keys and values are stored while serving."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    model_validator,
)

from pipeline.config.base import SettingsGroup


class KVCacheSettings(SettingsGroup):
    """The storage format of keys and values while serving."""

    name: str = Field(description="name in variants, after the +")
    dtype: Literal["auto", "fp8_e4m3", "fp8_e5m2"] = Field(
        description="number format of keys and values; auto: the model's own"
    )
    scales: Literal["calibrated", "one"] = Field(
        "one", description="calibrated: per layer one scale for keys and one for values; one: 1.0"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> KVCacheSettings:
        if self.scales == "calibrated" and self.dtype != "fp8_e4m3":
            why = " (vLLM refuses fp8_e5m2 on a checkpoint that has scales)" if self.dtype == "fp8_e5m2" else ""
            raise ValueError(f"scales=calibrated goes with dtype fp8_e4m3, not {self.dtype}{why}")
        return self

    @property
    def needs_data(self) -> bool:
        """True if the checkpoint has scales of keys and values."""
        return self.scales == "calibrated"
