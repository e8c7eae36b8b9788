"""The quantity that is optimized: its figure, rank, change, and words, by each of its names."""

from __future__ import annotations

import pytest
from support.compare_records import TASKS, record, with_divergences

from pipeline.compare import compare
from pipeline.compare.comparison import Comparison, Row
from pipeline.compare.decide.objective import Objective, cell_at, more_divergent, under
from pipeline.compare.decide.recommendation import recommend
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing
from pipeline.results.bench import Guard, LoadResult, Metric
from pipeline.results.metrics import THROUGHPUT, TPOT
from pipeline.results.records import Record

# Names as a caller may put them together.
SPEED, LATENCY, BYTES = (name.lower() for name in ("Throughput", "TPOT", "Size"))


def ladder(made: Record, alone: float) -> Record:
    """Give a record two loads: one request at a time with that time per token, and that of the table."""

    def load(slots: int, metrics: dict[str, Metric]) -> LoadResult:
        return LoadResult(
            name=f"concurrency {slots}",
            num_prompts=120,
            request_rate="inf",
            max_concurrency=slots,
            asked=360,
            completed=360,
            failed=0,
            metrics=metrics,
        )

    tpot = Metric(unit="ms", values=(alone, 1.01 * alone, 0.99 * alone))
    loads = load(1, {**made.speed.metrics, TPOT.name: tpot}), load(16, made.speed.metrics)
    update = {"protocol": "ladder", "loads": loads, "headline": "concurrency 16", "metrics": loads[1].metrics}
    speed = made.speed.model_copy(update=update)
    return made.model_copy(update={"speed": speed, "protocols": {"ladder": speed}})


def started_twice(made: Record) -> Record:
    """Give a record's four repeats two starts of the server."""
    (load,) = ladder(made, 1.0).speed.loads[1:]
    load = load.model_copy(update={"blocks": (0, 0, 1, 1)})
    update = {"protocol": "study", "loads": (load,), "headline": load.name}
    speed = made.speed.model_copy(update=update)
    return made.model_copy(update={"speed": speed, "protocols": {"study": speed}})


def table(*records: Record) -> tuple[Comparison, dict[str, Row]]:
    found = compare(records, TASKS)
    return found, {row.name: row for row in found.rows}


# The record's time per token is 1e6 over its throughput: 1000 and 800 ms.
RECORDS = record("bf16"), record("a", 1250, size=40), record("b", 1100, size=130, emulated=("fp8",))


def test_the_figure_and_its_rank() -> None:
    comparison, rows = table(*RECORDS)
    found = {name: Objective(comparison, name) for name in (SPEED, LATENCY, BYTES)}
    assert found[SPEED].figure(rows["a"]) == found[SPEED].rank(rows["a"]) == pytest.approx(1250)
    assert found[LATENCY].figure(rows["a"]) == -found[LATENCY].rank(rows["a"]) == pytest.approx(800)
    assert found[BYTES].figure(rows["a"]) == -found[BYTES].rank(rows["a"]) == 40
    assert [each.is_speed for each in found.values()] == [True, True, False]
    assert [each.column() for each in found.values()] == [THROUGHPUT.name, TPOT.name, "size"]
    gone = Missing(reason="gone")
    comparison, rows = table(record("bf16"), record("x", speed=gone).model_copy(update={"size": gone}))
    for name in (SPEED, LATENCY, BYTES):
        nothing = Objective(comparison, name)
        assert nothing.figure(rows["x"]) is None and nothing.rank(rows["x"]) == float("-inf")
        assert nothing.change(rows["x"]) is None and not nothing.gains(rows["x"])


def test_the_change_from_bf16_is_a_gain_in_the_direction_of_the_quantity() -> None:
    comparison, rows = table(*RECORDS)
    speed, latency, size = (Objective(comparison, name) for name in (SPEED, LATENCY, BYTES))
    assert speed.change(rows["a"]).percent == pytest.approx(25)
    assert latency.change(rows["a"]).percent == pytest.approx(-20)
    assert speed.gains(rows["a"]) and latency.gains(rows["a"])
    # Emulated: its speed was not measured.
    assert speed.change(rows["b"]) is latency.change(rows["b"]) is None
    assert size.change(rows["a"]) == Change(percent=-60.0, interval=Interval(low=-60.0, high=-60.0), p_value=0.0)
    assert size.gains(rows["a"]) and not size.gains(rows["b"]) and size.change(rows["b"]).percent == pytest.approx(30)
    slow, slow_rows = table(record("bf16"), record("slow", 800))
    assert not Objective(slow, SPEED).gains(slow_rows["slow"]) and not Objective(slow, LATENCY).gains(slow_rows["slow"])
    equal, equal_rows = table(record("bf16", size=100), record("a", size=100))
    assert Objective(equal, BYTES).change(equal_rows["a"]).p_value == 1.0
    assert not Objective(equal, BYTES).gains(equal_rows["a"])


def test_the_change_between_two_variants() -> None:
    comparison, rows = table(record("bf16"), record("a", 1250, size=40), record("c", 1000, size=50), RECORDS[2])
    speed, latency, size = (Objective(comparison, name) for name in (SPEED, LATENCY, BYTES))
    assert speed.between(rows["a"], rows["c"]).percent == pytest.approx(25)
    assert latency.between(rows["a"], rows["c"]).percent == pytest.approx(-20)
    assert size.between(rows["a"], rows["c"]).percent == pytest.approx(-20)
    assert size.between(rows["b"], rows["c"]).percent == pytest.approx(160)
    for one, other in (("a", "b"), ("b", "a")):
        assert speed.between(rows[one], rows[other]) is latency.between(rows[one], rows[other]) is None
    gone, gone_rows = table(record("bf16"), record("x", speed=Missing(reason="gone")))
    assert Objective(gone, LATENCY).between(gone_rows["x"], gone_rows["bf16"]) is None
    assert Objective(gone, SPEED).between(gone_rows["bf16"], gone_rows["x"]) is None


def test_the_time_per_token_is_that_of_one_request_where_it_was_measured() -> None:
    comparison, rows = table(ladder(record("bf16"), 10.0), ladder(record("a", 1250), 5.0))
    speed, latency, size = (Objective(comparison, name) for name in (SPEED, LATENCY, BYTES))
    assert (speed.load, latency.load, size.load) == ("concurrency 16", "concurrency 1", None)
    assert latency.figure(rows["a"]) == pytest.approx(5) and latency.change(rows["a"]).percent == pytest.approx(-50)
    assert latency.between(rows["a"], rows["bf16"]).percent == pytest.approx(-50)
    plain, plain_rows = table(record("bf16"), record("a", 1250))
    assert Objective(plain, LATENCY).load is None is Objective(plain, SPEED).load
    assert Objective(plain, LATENCY).figure(plain_rows["a"]) == pytest.approx(800)
    # A variant without that load has no figure.
    mixed, mixed_rows = table(ladder(record("bf16"), 10.0), record("a", 1250))
    assert Objective(mixed, LATENCY).figure(mixed_rows["a"]) is None


def test_a_cell_is_that_of_its_load() -> None:
    _, rows = table(ladder(record("bf16"), 10.0), ladder(record("a", 1250), 5.0))
    row = rows["a"]
    assert cell_at(row, TPOT.name, "concurrency 1").measured.mean == pytest.approx(5)
    for load in (None, "concurrency 16"):
        assert cell_at(row, TPOT.name, load).measured.mean == pytest.approx(800)
        assert cell_at(row, "p99_itl_ms", load) == Missing(reason="not measured")
    assert cell_at(row, "p99_itl_ms", "concurrency 1") == Missing(reason="not measured one request at a time")
    assert cell_at(row, TPOT.name, "rate inf") == Missing(reason="not measured with all requests sent at once")


def test_equals_are_ordered_by_their_divergence() -> None:
    sizes = {"a": 500, "b": 505, "c": 500, "d": 400}
    made = [record("bf16", size=1000), *(record(name, size=size) for name, size in sizes.items())]
    comparison = with_divergences(compare(made, TASKS), a=0.045, b=0.010, d=0.9)
    rows = {row.name: row for row in comparison.rows}
    size = Objective(comparison, BYTES)
    # D is a fifth smaller, however much it diverges; the divergence of C was not measured.
    assert [row.name for row in size.order(comparison.rows)] == ["d", "b", "a", "c", "bf16"]
    assert size.is_equal(rows["a"], rows["b"]) and size.is_equal(rows["b"], rows["a"])
    assert not size.is_equal(rows["a"], rows["d"]) and not size.is_equal(rows["d"], rows["a"])
    assert more_divergent(rows["a"], rows["b"]) == "A (KL from BF16 45 × 10⁻³ nats per token, against 10)"
    assert more_divergent(rows["c"], rows["b"]) == "C" and more_divergent(rows["b"], rows["c"]) == "B"


@pytest.mark.parametrize(("tolerance", "first"), [(0.1, "a"), (2.0, "b")])
def test_speeds_are_equal_where_the_interval_of_their_difference_is_within_the_tolerance(tolerance, first) -> None:
    speeds = ("bf16", 1000, (1.0, 1.001, 0.999, 1.0)), ("a", 1202, (1.001, 1.0, 1.0, 0.999)), ("b", 1200, (1.0,) * 4)
    made = [started_twice(record(name, speed, noise=noise)) for name, speed, noise in speeds]
    comparison = with_divergences(compare(made, TASKS, tolerance_percent=tolerance), a=0.045, b=0.010)
    assert Objective(comparison, SPEED).order(comparison.rows)[0].name == first


def test_speeds_of_one_start_are_never_equal() -> None:
    """Their interval is as wide as the tolerance at least."""
    made = [record("bf16"), record("a", 1201), record("b", 1200)]
    comparison = with_divergences(compare(made, TASKS), a=0.045, b=0.010)
    assert Objective(comparison, SPEED).order(comparison.rows)[0].name == "a"


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (None, ""),
        ("concurrency 1", "one request at a time"),
        ("concurrency 16", "at 16 requests in flight"),
        ("rate inf", "with all requests sent at once"),
        ("rate 4", "under the load rate 4"),
    ],
)
def test_a_load_in_words(load: str | None, words: str) -> None:
    assert under(load) == words


def test_gains_and_figures_in_words() -> None:
    comparison, rows = table(ladder(record("bf16", size=100), 10.0), ladder(record("a", 1250, size=40), 5.0))
    change = Change(percent=-50.0, interval=Interval(low=-52.25, high=-47.0), p_value=0.001)
    gain = Change(percent=25.0, interval=Interval(low=20.0, high=30.0), p_value=0.001)
    speed, latency, size = (Objective(comparison, name) for name in (SPEED, LATENCY, BYTES))
    assert speed.lead(rows["a"], gain) == (
        "A serves 25.0 % more tokens per second than BF16 (95 % interval +20.0 to +30.0 %), at 16 requests in flight"
    )
    assert latency.lead(rows["a"], change) == (
        "A takes 50.0 % less time per output token than BF16 (95 % interval −52.2 to −47.0 %), one request at a time"
    )
    assert size.lead(rows["a"], change) == "A's checkpoint is 50 % smaller than BF16's"
    other = rows["bf16"]
    assert speed.better(rows["a"], other, gain) == "A serves 25.0 % more tokens per second (+20.0 to +30.0 %)"
    assert latency.better(rows["a"], other, change) == "A takes 50.0 % less time per output token (−52.2 to −47.0 %)"
    assert size.better(rows["a"], other, change) == "A is 50 % smaller"
    assert [each.shown(rows["a"]) for each in (speed, latency)] == ["1,250 tok/s", "5.0 ms per token"]
    assert size.shown(
        rows["a"].model_copy(update={"size": rows["a"].size.model_copy(update={"bytes": 12_345_000_000})})
    ) == ("12.35 GB")
    assert [each.noun for each in (speed, latency, size)] == ["throughput", "time per output token", "checkpoint size"]
    claim = latency.claim(rows["a"], change, "b")
    assert (claim.variant, claim.against, claim.column, claim.interval) == ("a", "b", TPOT.name, change.interval)
    assert latency.claim(rows["a"], change).against == "bf16"


def disturbed(made: Record, load: str) -> Record:
    """Let a guard of one load fail."""
    guard = Guard(name="warm-up", passed=False, text="not steady", load=load)
    speed = made.speed.model_copy(update={"guards": (guard,)})
    return made.model_copy(update={"speed": speed, "protocols": {"ladder": speed}})


@pytest.mark.parametrize(("load", "objective"), [("concurrency 16", SPEED), ("concurrency 1", LATENCY)])
def test_a_guard_counts_for_the_objective_whose_load_it_watched(load: str, objective: str) -> None:
    made = ladder(record("bf16"), 10.0), disturbed(ladder(record("a", 1250), 5.0), load)
    comparison, rows = table(*made)
    for name in (SPEED, LATENCY):
        chosen = Objective(comparison, name)
        assert chosen.marks(rows["a"]) == (("warm-up: not steady",) if name == objective else ())
        assert not chosen.marks(rows["bf16"])
        assert recommend(comparison, objective=name).recommended == (None if name == objective else "a")
    assert Objective(comparison, BYTES).marks(rows["a"]) == ()


def test_the_repeats_that_separate_latencies_are_those_at_their_load() -> None:
    close = [ladder(record(name, 1000), alone) for name, alone in (("bf16", 10.0), ("a", 9.99), ("b", 9.0))]
    comparison, rows = table(*close)
    latency = Objective(comparison, LATENCY)
    assert latency.repeats_needed(rows["b"], rows["bf16"]) is not None
    group = comparison.models.shared("b", "bf16", "concurrency 1")
    assert latency.repeats_needed(rows["b"], rows["bf16"]) == comparison.models.model(group, TPOT.name).repeats_needed(
        "b", "bf16", "bf16", ["bf16", "a", "b"]
    )
    comparison, _ = table(*close[:2])
    (asked,) = [each for each in recommend(comparison, objective=LATENCY).settle if each.kind == "repeats"]
    assert asked.column == TPOT.name and "throughput" not in asked.text


def test_a_latency_of_one_start_says_so() -> None:
    comparison, rows = table(*RECORDS)
    latency = Objective(comparison, LATENCY)
    assert "; one start of each server, widened by 2 %)" in latency.lead(rows["a"], latency.change(rows["a"]))
