"""Who is on the frontier, on stated figures and on everything that hypothesis comes up with."""

import pytest
from hypothesis import HealthCheck, given, settings
from scipy import stats
from support.compare_records import TASKS, anything, record

from pipeline.compare import compare
from pipeline.compare.comparison import SIZE
from pipeline.compare.decide.differences import speed_between
from pipeline.compare.decide.frontier import frontiers
from pipeline.hardware.rules import NO_SPEED
from pipeline.results.base import Missing
from pipeline.results.metrics import HEADLINE
from pipeline.results.records import TaskScores

THROUGHPUT = HEADLINE[0].name


def places(*records, cost=THROUGHPUT, margin=1.0):
    found = frontiers(records, compare(records, TASKS), margin)
    return {place.name: place for place in next(f for f in found if f.cost.name == cost).places}


def test_faster_and_no_worse_puts_off():
    found = places(record("bf16", n=2000), record("a", 1500, n=2000))
    assert found["bf16"].standing == "off" and found["bf16"].beaten_by == ("a",)
    assert found["a"].standing == "on"
    assert (
        "clearly better on one axis and no worse on the other is A (+50.0 % throughput)" in found["bf16"].statement.text
    )


def test_faster_but_worse_leaves_both_on():
    found = places(record("bf16"), record("a", 1500, wrong=30))
    assert {place.standing for place in found.values()} == {"on"}


def test_too_few_items_leave_it_undecided():
    """Nothing was lost on a hundred items, and so nothing of more than a point is ruled out."""
    found = places(record("bf16", n=40), record("a", 1500, n=40))
    assert found["bf16"].standing == "cannot tell" and found["bf16"].rivals == ("a",)
    assert found["a"].standing == "on" and not found["bf16"].statement.claims


def test_noise_on_both_axes_is_undecided():
    found = places(record("bf16", n=2000), record("a", 1002, n=2000, wrong=1))
    assert {place.standing for place in found.values()} == {"cannot tell"}


def test_a_single_run_decides_nothing():
    found = places(record("bf16", noise=(1.0,)), record("a", 2000, noise=(1.0,)))
    assert {place.standing for place in found.values()} == {"cannot tell"}


def test_a_graded_task_of_one_item_decides_nothing():
    """One graded score has no interval, and so no difference of two has one."""
    graded = TaskScores(task="t", metric="f1", value=0.4, n=1, asked=1, scores=(("item", 0.4),))
    better = graded.model_copy(update={"value": 0.9, "scores": (("item", 0.9),)})
    tasks = [dict.fromkeys(TASKS, scored) for scored in (graded, better)]
    found = places(record("bf16", tasks=tasks[0]), record("a", 1500, tasks=tasks[1]))
    assert found["bf16"].standing == "cannot tell" and found["bf16"].rivals == ("a",)


def test_emulated_and_unscored_variants_are_absent_with_their_reason():
    records = [record("bf16"), record("a", emulated=("fp8",)), record("b", tasks=Missing(reason="no answers"))]
    throughput, *_, size = frontiers(records, compare(records, TASKS), 1)
    assert throughput.absent["a"] == NO_SPEED
    assert size.cost.name == SIZE and {p.name for p in size.places} == {"bf16", "a"} and "b" in size.absent


def test_size_is_counted_and_needs_no_repeats():
    found = places(record("bf16", n=2000, size=100), record("a", n=2000, size=50), cost=SIZE)
    assert found["bf16"].beaten_by == ("a",) and found["a"].standing == "on"


def test_statements_name_both_axes_with_their_signs():
    """Latency and size are better the smaller they are."""
    records = record("bf16", n=2000, size=100), record("a", 1250, n=2000, size=50)
    start = "BF16 is off: clearly better on one axis and no worse on the other is A "
    one = " One start of each server, widened by 2 %."
    for cost, gain, title, limit in (
        (THROUGHPUT, "+25.0 % throughput", "throughput", one),
        ("mean_ttft_ms", "−20.0 % mean TTFT", "mean TTFT", one),
        (SIZE, "−50.0 % checkpoint size", "checkpoint size", ""),
    ):
        found = places(*records, cost=cost)
        assert found["bf16"].statement.text == f"{start}({gain}).{limit}"
        assert found["a"].statement.text == (
            f"A is on the frontier: in mean accuracy or {title} it is clearly better than each other variant.{limit}"
        )
        (claim,) = found["bf16"].statement.claims
        assert (claim.variant, claim.against, claim.column) == ("a", "bf16", cost) and claim.interval.low > 10
    assert places(record("bf16"))["bf16"].statement.text == "BF16 is the only variant."


def test_more_accuracy_puts_off_in_points():
    found = places(record("bf16", wrong=60), record("a", wrong=20), cost=SIZE)
    assert found["bf16"].standing == "off"
    assert found["bf16"].statement.text.endswith("is A (+10.0 points mean accuracy).")
    # The level of 2 % is split over two ordered pairs of variants.
    (claim,) = found["bf16"].statement.claims
    (row,) = [row for row in compare([record("bf16", wrong=60), record("a", wrong=20)], TASKS).rows if row.name == "a"]
    around = row.mean_change.interval
    half = 100 * (around.high - around.low) / 2 * stats.norm.isf(0.01) / stats.norm.isf(0.025)
    assert (claim.interval.high - claim.interval.low) / 2 == pytest.approx(half)


@pytest.mark.parametrize(("others", "level"), [(1, 0.9), (2, 0.95)])
def test_no_slower_is_judged_at_a_level_split_over_those_that_have_a_place(others, level):
    """One-sided 5 % for each of the others: the ends of an interval at 90 %, at 95 % for two. Three are emulated."""
    more = [record(name, 500, wrong=60, n=2000) for name in "cd"[: others - 1]]
    absent = [record(f"x{i}", emulated=("fp8",)) for i in range(3)]
    records = [record("bf16", wrong=200, n=2000), record("a", 995, n=2000), *more, *absent]
    table = compare(records, TASKS)
    low = speed_between(table, THROUGHPUT, "a", "bf16", level=level).interval.low
    assert low < 0
    for margin, standing in ((-low + 0.01, "off"), (-low - 0.01, "cannot tell")):
        found = {place.name: place for place in frontiers(records, table, margin)[0].places}
        assert len(found) == others + 1 and found["bf16"].standing == standing


def test_a_size_within_the_margin_puts_nobody_off_and_is_no_worse():
    def standing(size, margin, wrong=0):
        found = places(
            record("bf16", wrong=60, n=2000, size=100),
            record("a", n=2000, wrong=wrong, size=size),
            cost=SIZE,
            margin=margin,
        )
        return found["bf16"].standing, found["a"].standing

    # More accurate, and larger by 3 %: no worse within 4 %.
    assert standing(103, 4) == ("off", "on") and standing(103, 2) == ("on", "on")
    # As accurate, and smaller by 3 %.
    assert standing(97, 4, wrong=60) == ("cannot tell", "cannot tell") and standing(97, 2, wrong=60) == ("off", "on")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(anything())
def test_what_is_said_of_places_holds(records):
    for frontier in frontiers(records, compare(records, TASKS), 1):
        found = {place.name: place for place in frontier.places}
        assert not set(found) & set(frontier.absent)
        assert set(found) | set(frontier.absent) == {r.name for r in records}
        for place in frontier.places:
            assert (place.standing == "off") == bool(place.beaten_by)
            assert place.standing != "on" or not place.rivals
            for other in place.beaten_by:
                # Who puts another off is not put off by it.
                assert place.name not in found[other].beaten_by
            for claim in place.statement.claims:
                assert claim.interval.low > 0 and claim.variant in found and claim.against in found
            assert bool(place.statement.claims) == (
                place.standing == "off" or (place.standing == "on" and len(found) > 1)
            )
