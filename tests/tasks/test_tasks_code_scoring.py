"""pass@k of programs, and the metrics of the hub that local ones replace."""

import math
import sys

import pytest

from pipeline.errors import ConfigError
from pipeline.tasks import code_scoring
from pipeline.tasks.code_scoring import CodeEval, local_metrics, pass_at_k, shared_error
from pipeline.tasks.sandbox.supervisor import Outcome


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that were run; those that hold "right" pass, without a sandbox."""
    run: list[str] = []

    def outcome(source: str) -> Outcome:
        run.append(source)
        return Outcome("right" in source, "passed" if "right" in source else "failed: wrong")

    monkeypatch.setattr(code_scoring, "run_program", outcome)
    return run


def test_the_score_is_the_mean_over_tasks(programs: list[str]) -> None:
    scores, details = CodeEval().compute(["test a", "test b"], [["right"], ["wrong"]], k=[1])
    assert scores == {"pass@1": 0.5}
    assert programs == ["right\ntest a", "wrong\ntest b"]
    assert [details[task][0][1]["passed"] for task in (0, 1)] == [True, False]
    assert details[1][0] == (0, {"task_id": 1, "passed": False, "result": "failed: wrong", "completion_id": 0})


def test_only_sizes_that_every_task_has_candidates_for_are_scored() -> None:
    candidates = [["right", "wrong", "wrong"], ["right", "right"]]
    scores, _ = CodeEval().compute(["a", "b"], candidates, k=[1, 2, 3])
    assert scores == {"pass@1": pytest.approx((1 / 3 + 1) / 2), "pass@2": pytest.approx((2 / 3 + 1) / 2)}
    assert CodeEval().compute([], [], k=[1]) == ({}, {})
    # Those of the original metric.
    assert set(CodeEval().compute(["a"], [["right"] * 100])[0]) == {"pass@1", "pass@10", "pass@100"}
    assert set(CodeEval().compute(["a"], [["right"] * 99])[0]) == {"pass@1", "pass@10"}


@pytest.mark.parametrize(("n", "correct", "k"), [(10, 3, 1), (10, 3, 5), (10, 0, 5), (10, 10, 1), (5, 1, 5)])
def test_pass_at_k_is_one_minus_the_chance_to_draw_wrong_ones_alone(n: int, correct: int, k: int) -> None:
    miss = math.prod((n - correct - i) / (n - i) for i in range(k))
    assert pass_at_k(n, correct, k) == pytest.approx(1 - max(miss, 0.0))


def test_a_metric_of_the_hub_is_refused_at_the_end_of_the_block() -> None:
    before = sys.modules.get("evaluate")
    with pytest.raises(ConfigError, match="needs the metric rouge"):
        with local_metrics():
            import evaluate

            assert isinstance(evaluate.load("code_eval"), CodeEval)
            with pytest.raises(LookupError):
                evaluate.load("rouge")
    assert sys.modules.get("evaluate") is before
    with local_metrics():
        assert sys.modules["evaluate"] is not before
    assert sys.modules.get("evaluate") is before


def test_an_error_of_more_than_half_of_the_programs_is_named() -> None:
    good, wrong = Outcome(True, "passed"), Outcome(False, "AssertionError (line 3: assert f(1) == 2)")
    missing = [
        Outcome(False, f"ModuleNotFoundError: No module named 'x\x1b[2J' (line {i}: import x)") for i in range(3)
    ]
    assert shared_error([good, wrong, *missing]) == ("ModuleNotFoundError: No module named 'x[2J'", 3)
    assert shared_error([good, wrong, good, *missing]) is None
    assert shared_error([wrong] * 5) is None
    assert shared_error([good] * 5) is None
    assert shared_error([]) is None
