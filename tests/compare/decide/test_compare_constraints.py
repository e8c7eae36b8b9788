"""Each constraint on one variant: met, broken or open, with its sentence and the distance from the limit."""

from __future__ import annotations

import pytest
from support.compare_records import TASKS, record

from pipeline.compare import compare
from pipeline.compare.comparison import Row
from pipeline.compare.decide.constraints import Candidate, ConstraintCheck, Constraints, Requirements, examine
from pipeline.compare.stats.intervals import Interval
from pipeline.compare.stats.noninferiority import MeanLoss
from pipeline.compare.tasks import CutAnswers
from pipeline.hardware.rules import NO_SPEED
from pipeline.results.base import Missing
from pipeline.results.bench import Guard, LoadResult, Metric
from pipeline.results.records import Record


def row_of(made: Record, **update: object) -> Row:
    (found,) = [row for row in compare([record("bf16"), made], TASKS).rows if row.name == made.name]
    return found.model_copy(update=update)


def checks(row: Row, constraints: Constraints, needs: Requirements | None = None) -> dict[str, tuple[str, str]]:
    found = examine(row, constraints, needs).checks
    return {each.constraint: (each.status, each.statement.text) for each in found if "loss" not in each.constraint}


WEIGHTS = Requirements(memory_gib=20.0, memory_of="weights")


@pytest.mark.parametrize(
    ("needs", "status", "text"),
    [
        (WEIGHTS, "met", "A needs 20.0 GiB (weights), within 20 GiB."),
        (Requirements(memory_gib=20.01), "broken", "A needs 20.0 GiB (), more than 20 GiB."),
        (Requirements(memory_gib=0.1), "met", "A needs 0.1 GiB (), within 20 GiB."),
        (Requirements(memory_gib=0.0234), "met", "A needs 0.02 GiB (), within 20 GiB."),
        (
            Requirements(memory_gib=Missing(reason="not made")),
            "open",
            "A: the fit into 20 GiB is unknown (not made).",
        ),
        (None, "open", "A: the fit into 20 GiB is unknown (its size is not known)."),
    ],
)
def test_memory(needs: Requirements | None, status: str, text: str) -> None:
    row = row_of(record("a"))
    assert checks(row, Constraints(memory_gib=20), needs) == {"memory_gib": (status, text)}
    assert checks(row, Constraints(), needs) == {}


@pytest.mark.parametrize(
    ("needs", "status", "text"),
    [
        (WEIGHTS, "met", "A is served on L4."),
        (
            WEIGHTS.model_copy(update={"unserved": "no kernel."}),
            "broken",
            "A is not served on L4: no kernel.",
        ),
        (
            WEIGHTS.model_copy(update={"unserved": Missing(reason="not tried")}),
            "open",
            "A: support on L4 is unknown (not tried).",
        ),
        (None, "open", "A: support on L4 is unknown (its format is not known)."),
    ],
)
def test_hardware(needs: Requirements | None, status: str, text: str) -> None:
    assert checks(row_of(record("a")), Constraints(hardware="L4"), needs) == {"hardware": (status, text)}


def with_p99(made: Record, *values: float) -> Record:
    metrics = {**made.speed.metrics, "p99_ttft_ms": Metric(unit="ms", values=values)}
    return made.model_copy(update={"speed": made.speed.model_copy(update={"metrics": metrics})})


STEADY = with_p99(record("a"), 400.0, 404.0, 396.0)


@pytest.mark.parametrize("needs", [None, WEIGHTS])
@pytest.mark.parametrize(
    ("limit", "status", "text"),
    [
        (1500, "met", "A: p99 TTFT is 400 ms (390 to 410), within 1,500 ms."),
        (300, "broken", "A: p99 TTFT is 400 ms (390 to 410), above 300 ms."),
        (405, "open", "A: p99 TTFT is 400 ms (390 to 410), which cannot be told from 405 ms."),
    ],
)
def test_a_latency_is_held_against_its_limit(needs: Requirements | None, limit: float, status: str, text: str) -> None:
    row = row_of(STEADY)
    assert checks(row, Constraints(ttft_p99_ms=limit), needs) == {"ttft_p99_ms": (status, text)}
    around = row.details["p99_ttft_ms"].measured.interval
    (check,) = [c for c in examine(row, Constraints(ttft_p99_ms=limit), needs).checks if c.constraint == "ttft_p99_ms"]
    expected = Interval(low=around.low - limit, high=around.high - limit)
    assert [claim.interval for claim in check.statement.claims] == ([] if status == "open" else [expected])


def test_a_latency_without_a_figure_of_this_machine_is_open() -> None:
    limit = Constraints(ttft_p99_ms=500, hardware="L40S")

    def only(row: Row, needs: Requirements | None = None, limit: Constraints = limit) -> tuple[str, str]:
        return checks(row, limit, needs)["ttft_p99_ms"]

    elsewhere = WEIGHTS.model_copy(update={"measured_on": "AMD EPYC"})
    assert only(row_of(STEADY), elsewhere) == ("open", "A: p99 TTFT is open: measured on AMD EPYC, not on L40S.")
    assert only(row_of(STEADY), WEIGHTS)[0] == "met"
    emulated = row_of(record("a", emulated=("fp8",)))
    for limited in (limit, limit.model_copy(update={"at": "concurrency 1"})):
        assert only(emulated, None, limited)[1].endswith(f" is unknown ({NO_SPEED}).")
    single = row_of(with_p99(record("a", noise=(1.0,)), 400.0))
    assert only(single) == ("open", "A: p99 TTFT is 400 ms in a single repeat, without interval.")
    assert only(row_of(record("a"))) == ("open", "A: p99 TTFT is unknown (not measured).")
    at = limit.model_copy(update={"at": "concurrency 1"})
    assert only(row_of(STEADY), None, at)[1] == (
        "A: p99 TTFT one request at a time is unknown (not measured one request at a time)."
    )
    assert list(checks(row_of(STEADY), Constraints(tpot_p99_ms=9))) == ["tpot_p99_ms"]


def marked(made: Record) -> Record:
    guards = (Guard(name="warm-up", passed=False, text="not steady."), Guard(name="queue", passed=False, text="long"))
    return made.model_copy(update={"speed": made.speed.model_copy(update={"guards": guards})})


def test_a_failed_guard_leaves_a_claimed_speed_open() -> None:
    text = "A: its speed must be measured again (warm-up: not steady; queue: long)."
    assert checks(row_of(marked(record("a"))), Constraints()) == {"measurement": ("open", text)}
    assert checks(row_of(record("a")), Constraints()) == {}
    assert examine(row_of(marked(record("a"))), Constraints(), None, ()).standing == "admissible"


def under_loads(failed: str | None) -> Row:
    """Two loads, of which the second is that of the tables, with the same P99; a guard fails for one of them."""
    loads = tuple(
        LoadResult(
            name=f"concurrency {slots}",
            num_prompts=100,
            request_rate="inf",
            max_concurrency=slots,
            asked=300,
            completed=300,
            failed=0,
            metrics=STEADY.speed.metrics,
        )
        for slots in (1, 16)
    )
    guards = (Guard(name="preemptions", passed=False, text="3 requests.", load=failed),)
    update = {"protocol": "ladder", "loads": loads, "headline": loads[1].name, "guards": guards}
    speed = STEADY.speed.model_copy(update=update)
    return row_of(STEADY.model_copy(update={"speed": speed, "protocols": {"ladder": speed}}))


@pytest.mark.parametrize("limit", [300, 1500])
@pytest.mark.parametrize("failed", ["concurrency 1", "concurrency 16", None])
@pytest.mark.parametrize("at", ["concurrency 1", "concurrency 16"])
def test_a_latency_measured_while_a_guard_failed_is_neither_met_nor_broken(
    at: str, failed: str | None, limit: float
) -> None:
    """The guards of the load at which it is judged count, and those of the whole benchmark."""
    found = checks(under_loads(failed), Constraints(ttft_p99_ms=limit, at=at))["ttft_p99_ms"]
    if failed in (None, at):
        title = "one request at a time" if at == "concurrency 1" else "at 16 requests in flight"
        said = f"A: p99 TTFT {title} must be measured again (preemptions: 3 requests)."
        assert found == ("open", said)
    else:
        assert found[0] == ("broken" if limit == 300 else "met")


def losses(row: Row, **limits: float) -> dict[str, tuple[str, str]]:
    found = examine(row, Constraints(max_loss_points=limits), None).checks
    return {each.constraint: (each.status, each.statement.text) for each in found}


def test_a_loss_is_judged_at_its_limit_or_at_the_tables_margin() -> None:
    """20 of 400 items lost: between 3.4 and 7.3 points at 90 %."""
    row = row_of(record("a", wrong=20))
    found = losses(row, MMLU=10)
    measured = "−5.0 points (90 %: −7.3 to −3.4)"
    assert found["max_loss_points.MMLU"] == ("met", f"A loses less than 10 points on MMLU: {measured}.")
    assert found["max_loss_points.GSM8K"] == ("broken", f"A loses more than 1 point on GSM8K: {measured}.")
    assert losses(row, MMLU=5)["max_loss_points.MMLU"] == (
        "open",
        f"A: a loss of 5 points on MMLU is not ruled out: {measured}.",
    )
    for limit, status in ((7.2, "open"), (7.4, "met"), (3.5, "open"), (2.5, "broken")):
        assert losses(row, MMLU=limit)["max_loss_points.MMLU"][0] == status


def test_what_is_claimed_of_a_loss_is_its_distance_from_the_limit() -> None:
    row = row_of(record("a", wrong=20))
    around = row.tasks["MMLU"].loss.interval
    for limit, against in ((0.1, 10.0), (0.01, None)):
        given = {} if against is None else {"MMLU": against}
        found = examine(row, Constraints(max_loss_points=given), None).checks
        (claim,) = next(each for each in found if each.constraint.endswith("MMLU")).statement.claims
        assert claim.interval.low == pytest.approx(100 * (around.low + limit))
        assert claim.interval.high == pytest.approx(100 * (around.high + limit))
        assert (claim.variant, claim.against, claim.column) == ("a", "limit", "MMLU")
    undecided = examine(row, Constraints(max_loss_points={"MMLU": 5}), None).checks
    assert undecided[0].statement.claims == ()


def test_a_task_that_cannot_show_a_loss_is_open_with_its_reason() -> None:
    row = row_of(record("a"))
    cell = row.tasks["MMLU"]
    blind = cell.loss.model_copy(update={"kind": "cannot tell", "blind": "BF16 itself scores only 1.7 %"})
    tasks = {**row.tasks, "MMLU": cell.model_copy(update={"loss": blind})}
    found = losses(row.model_copy(update={"tasks": tasks}))
    assert found["max_loss_points.MMLU"] == ("open", "A: MMLU cannot show a loss: BF16 itself scores only 1.7 %.")
    gone = losses(row.model_copy(update={"tasks": {"MMLU": Missing(reason="no answers")}}))
    assert gone == {"max_loss_points.MMLU": ("open", "A: the loss on MMLU is unknown (no answers).")}


def test_a_mean_loss_that_is_not_ruled_out_is_open() -> None:
    wide, narrow = MeanLoss(margin=0.03, p_value=0.06), MeanLoss(margin=0.03, p_value=0.05)
    text = "A: a mean loss of 3 points over all tasks is not ruled out."
    assert losses(row_of(record("a"), mean_loss=wide))["mean_loss"] == ("open", text)
    assert "mean_loss" not in losses(row_of(record("a"), mean_loss=narrow))
    assert "mean_loss" not in losses(row_of(record("a"), mean_loss=Missing(reason="unknown")))


def test_answers_that_run_on_are_open() -> None:
    row = row_of(record("a"))

    def cut(here: int, p_holm: float) -> dict[str, tuple[str, str]]:
        answers = CutAnswers(here=here, baseline=2, n=400, p_value=0.001, p_holm=p_holm, method="McNemar")
        tasks = {**row.tasks, "MMLU": row.tasks["MMLU"].model_copy(update={"cut": answers})}
        return losses(row.model_copy(update={"tasks": tasks}))

    assert cut(60, 0.002)["cut_answers.MMLU"] == (
        "open",
        "A runs on: 60 of 400 answers of MMLU reached the token limit, with BF16 2 (p = 0.002, McNemar).",
    )
    assert "cut_answers.MMLU" not in cut(60, 0.06) and "cut_answers.MMLU" not in cut(1, 0.002)
    assert "cut_answers.GSM8K" not in cut(60, 0.002)


def test_bf16_loses_nothing_against_itself() -> None:
    row = compare([record("bf16")], TASKS).rows[0]
    assert examine(row, Constraints(max_loss_points={"MMLU": 1}), None) == Candidate(
        name="bf16", label="BF16", standing="admissible", checks=()
    )


def test_one_broken_constraint_excludes_and_one_open_leaves_open() -> None:
    lossy, heavy = row_of(record("a", wrong=20), mean_loss=MeanLoss(margin=0.03, p_value=0.01)), WEIGHTS
    found = examine(lossy, Constraints(memory_gib=10, max_loss_points={"MMLU": 5, "GSM8K": 10}), heavy)
    assert found.standing == "excluded"
    assert [check.constraint for check in found.broken] == ["memory_gib"]
    assert [check.constraint for check in found.open] == ["max_loss_points.MMLU"]
    assert all(isinstance(check, ConstraintCheck) for check in found.checks)
    assert examine(lossy, Constraints(max_loss_points={"MMLU": 5, "GSM8K": 10}), heavy).standing == "open"
    assert examine(row_of(record("a")), Constraints(memory_gib=30), heavy).standing == "admissible"


def test_constraints_are_empty_whatever_the_load() -> None:
    assert Constraints().is_empty and Constraints(at="rate inf").is_empty
    assert not Constraints(memory_gib=1).is_empty and not Constraints(max_loss_points={"MMLU": 1}).is_empty
