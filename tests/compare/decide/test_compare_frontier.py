"""Who is on the frontier, on stated figures and on everything that hypothesis comes up with."""

from hypothesis import HealthCheck, given, settings
from support.compare_records import TASKS, anything, record

from pipeline.compare import compare
from pipeline.compare.comparison import SIZE
from pipeline.compare.decide.frontier import frontiers
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
    assert throughput.absent["a"] == "emulated here: speed not measured"
    assert size.cost.name == SIZE and {p.name for p in size.places} == {"bf16", "a"} and "b" in size.absent


def test_size_is_counted_and_needs_no_repeats():
    found = places(record("bf16", n=2000, size=100), record("a", n=2000, size=50), cost=SIZE)
    assert found["bf16"].beaten_by == ("a",) and found["a"].standing == "on"


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
