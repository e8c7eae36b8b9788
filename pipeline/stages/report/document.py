"""The report as data: the input of every renderer, and the schema of `report.json`.

`SCHEMA_VERSION` changes if a field is renamed, removed or changes its meaning.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_serializer

from pipeline.compare.calibration_ranges import LayerRange, Spread
from pipeline.compare.calibration_sweep import Sweep
from pipeline.compare.comparison import Comparison
from pipeline.compare.decide.decision import Decision
from pipeline.compare.decide.frontier import Frontier
from pipeline.compare.decide.recommendation import Recommendation
from pipeline.compare.decide.verdict import Verdict
from pipeline.compare.engine_agreement import Engines
from pipeline.compare.history import History
from pipeline.compare.mixes import Mixes
from pipeline.compare.published.reproduction import Reproduction
from pipeline.compare.published.roofline_validation import RooflineCheck
from pipeline.compare.roofline.memory_fit import Fit
from pipeline.compare.roofline.model import Roofline
from pipeline.compare.stats.intervals import Interval
from pipeline.results.base import Frozen, Missing
from pipeline.results.calibration import Channel, ExpertLayer, Histogram, SetCard
from pipeline.results.item_scores import ItemScores
from pipeline.results.verify import CanaryAnswer, Check

SCHEMA_VERSION = 4


class Step(Frozen):
    """One artifact behind a row."""

    stage: str
    status: Literal["ok", "failed", "not_applicable", "missing"]
    reason: str = ""
    key: str = ""
    started: str = ""
    seconds: float | None = None


class Digest(Frozen):
    """One file of the checkpoint."""

    name: str
    bytes: int
    sha256: str


class Card(Frozen):
    """The recorded data of one variant."""

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
    answers: tuple[CanaryAnswer, ...]
    files: tuple[Digest, ...]


class CalibrationUse(Frozen):
    """A row whose checkpoint uses a calibration; no technique if it used tokens and no ranges."""

    name: str
    label: str
    technique: str | None
    setting: str = ""


class TechniqueFinding(Frozen):
    """The convergence of the ranges of one technique, and the rows that use them."""

    technique: str
    used_by: tuple[str, ...]
    stable_after: int | None
    moving: tuple[str, ...]
    text: str


class SiteFinding(Frozen):
    """The observed range of one site, and the clip point of each technique."""

    name: str
    layer: int | None
    kind: str
    minimum: float
    maximum: float
    outlier_ratio: float
    outlier_channels: tuple[Channel, ...]
    clip: dict[str, dict[str, float]]
    stable_after: dict[str, int | None]


class CalibrationFindings(Frozen):
    """The observations of a calibration; the site with the largest outlier ratio is first."""

    conversations: int
    tokens: int
    dtype: str
    tolerance: float
    techniques: tuple[TechniqueFinding, ...]
    card: SetCard
    ranges: tuple[LayerRange, ...]
    convergence: dict[str, tuple[Spread, ...]]
    worst: tuple[Histogram, ...]
    sites: tuple[SiteFinding, ...]
    site_count: int
    experts: tuple[ExpertLayer, ...] = ()

    @field_serializer("card")
    def _as_shown(self, card: SetCard) -> dict[str, object]:
        """Return the card without figures that the report does not show."""
        return card.model_dump(exclude={"overlap": {"__all__": {"too_short"}}})


class Calibration(Frozen):
    """A calibration artifact behind the rows."""

    key: str
    used_by: tuple[CalibrationUse, ...]
    seen: CalibrationFindings | Missing


class Spent(Frozen):
    """The measurements of one variant in a study with a budget.

    Attributes:
        name: folder name of the variant.
        screen: change in throughput of the screen's repeat, as text; empty if there is none.
        kl: divergence from BF16 in the screen, nats per token.
        blocks: finished blocks.
        items, items_of: items asked, of all.
        bench_minutes, eval_minutes: duration of its benchmarks and evaluations.
        outcome: why it was or was not measured in full.
    """

    name: str
    screen: str = ""
    kl: Interval | None = None
    blocks: int
    items: int
    items_of: int
    bench_minutes: float
    eval_minutes: float
    outcome: str


class Spending(Frozen):
    """Use of the minutes of a study with a budget; a budget is in minutes, None for no limit."""

    bench_budget: float | None = None
    eval_budget: float | None = None
    rows: tuple[Spent, ...]


class Report(Frozen):
    """The content of the report, in every format."""

    schema_version: int = SCHEMA_VERSION
    title: str
    model: str
    # Hash of the model's weights by their content, of the hub by its commit; empty if it is not known.
    weights: str = ""
    machine: str
    measured: str
    setup: dict[str, str]
    # By variant, the identities of the devices that its speed was measured on, where they are known.
    devices: dict[str, tuple[str, ...]] = Field({})
    decision: Decision
    # The command that would decide what is open; empty if none is needed.
    next_command: str = ""
    # `vllm serve` by variant, with paths of this machine, which files for others do not have.
    serve: dict[str, str] = Field({}, exclude=True)
    verdict: Verdict
    comparison: Comparison
    cards: tuple[Card, ...]
    calibrations: tuple[Calibration, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    engines: tuple[Engines, ...] = ()
    frontiers: tuple[Frontier, ...] = ()
    mixes: Mixes | None = None
    recommendation: Recommendation | None = None
    reproductions: tuple[Reproduction, ...] = ()
    # By variant, on the GPU of the memory table.
    fits: dict[str, Fit | Missing] = Field({})
    # The measured machine first, then the GPUs of report.what_if.
    rooflines: tuple[Roofline, ...] = ()
    roofline_check: RooflineCheck | None = None
    history: History | None = None
    # Of a study with bench.budget_minutes or eval.budget_minutes.
    spending: Spending | None = None
    # The score of each item, by variant and task: what a later run is paired with.
    answers: dict[str, dict[str, ItemScores]] = Field({})
