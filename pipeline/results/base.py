"""Base classes of results: immutable models, and a missing value with its reason."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Plain data that nobody changes once it is computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Missing(Frozen):
    """What stands where a figure cannot: `n/a`, with the reason."""

    reason: str
