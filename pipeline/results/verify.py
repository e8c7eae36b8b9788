"""Results of the gate."""

from __future__ import annotations

from pipeline.results.base import Frozen


class Check(Frozen):
    """One check of the gate; `ok` is None where it could not be made."""

    name: str
    ok: bool | None
    detail: str


class Answer(Frozen):
    """What the served checkpoint said to a canary prompt."""

    prompt: str
    answer: str


# In order; cheap ones first, so that a broken checkpoint is not served.
CHECKS = (
    "files",
    "layers",
    "size",
    "scales",
    "untouched",
    "weights",
    # Before the variant is loaded: there is room for one server at a time.
    "BF16 reference",
    "loads in vLLM",
    "canary prompts",
    "canary log-probabilities",
)
