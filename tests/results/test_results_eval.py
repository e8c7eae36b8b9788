"""What an evaluation stores, and what is read where an earlier release stored less."""

from pipeline.results.eval import EvalResult, LayerErrors, TaskResult

STORED = {"task": "mmlu", "metric": "acc", "value": 0.5, "n": 10}


def test_what_an_earlier_release_left_out_did_not_happen() -> None:
    found = TaskResult.model_validate(STORED)
    assert (found.filter, found.stderr, found.available, found.filters) == ("none", None, None, {})
    counts = ("asked_once", "asked_by_echo", "generated", "truncated", "unfinished", "asked_again", "differing")
    assert [getattr(found, name) for name in counts] == [0] * len(counts)
    layers = {"file": "layers.csv", "tokens": 5, "modules": 28, "activations": "", "median_db": 20.0, "worst": []}
    assert LayerErrors.model_validate(layers).unrouted == 0
    whole = EvalResult.model_validate({"tasks": {"MMLU": STORED}})
    assert (whole.recalled, whole.sizes, whole.divergence, whole.layers) == (0, {}, None, None)


def test_all_items_were_asked_unless_it_says_how_many() -> None:
    assert TaskResult.model_validate(STORED).asked == 10
    assert TaskResult.model_validate({**STORED, "asked": 12}).asked == 12


def test_a_filters_name_has_at_most_forty_characters() -> None:
    found = TaskResult.model_validate({**STORED, "filters": {"f" * 40: 0.25, "g" * 41: 0.5}})
    assert found.filters == {"f" * 40: 0.25, "g" * 39 + "…": 0.5}
