"""The report as data: what every renderer reads, and what `report.json` holds.

`SCHEMA_VERSION` changes when a field is renamed, removed or means something else.
"""

from __future__ import annotations

from typing import Literal

from pipeline.compare.estimates import Frozen
from pipeline.compare.table import Comparison
from pipeline.compare.verdict import Verdict

SCHEMA_VERSION = 1


class Step(Frozen):
    """One artifact behind a row."""

    stage: str
    status: Literal["ok", "failed", "not_applicable", "missing"]
    reason: str = ""
    key: str = ""
    started: str = ""
    seconds: float | None = None


class Check(Frozen):
    """One check of the gate."""

    name: str
    ok: bool
    detail: str


class Answer(Frozen):
    """What the served checkpoint said to a canary prompt."""

    prompt: str
    answer: str


class Digest(Frozen):
    """One file of the checkpoint."""

    name: str
    bytes: int
    sha256: str


class Card(Frozen):
    """All that is on record about one variant."""

    name: str
    label: str
    failure: str
    recipe: dict[str, str]
    calibration: dict[str, str]
    serving: dict[str, str]
    machine: dict[str, str]
    versions: dict[str, str]
    emulated: tuple[str, ...]
    kernels: tuple[str, ...]
    command: str
    log: str
    steps: tuple[Step, ...]
    checks: tuple[Check, ...]
    answers: tuple[Answer, ...]
    files: tuple[Digest, ...]


class Report(Frozen):
    """Everything that is shown, in every format."""

    schema_version: int = SCHEMA_VERSION
    title: str
    model: str
    machine: str
    measured: str
    setup: dict[str, str]
    verdict: Verdict
    comparison: Comparison
    cards: tuple[Card, ...]
