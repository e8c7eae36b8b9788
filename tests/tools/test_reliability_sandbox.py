"""Attempts on the sandbox: none gets out, none fakes a verdict, in every way of isolation that works here."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from tools.reliability.sandbox_attempts import Attempt, Way, attempts, run, ways

DATA = Path(os.environ.get("PIPELINE_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
HUMANEVAL = DATA / "humaneval" / "HumanEval.jsonl"
GROUPS = list(dict.fromkeys(each.group for each in attempts()))


# One of each kind, for every test run.
FEW = {
    "a file of the user's home",
    "descriptors left open",
    "descriptors of process 1",
    "numbers of the host's processes",
    "the session keyring",
    "a new user namespace",
    "io_uring",
    "a call of x32",
    "every family of sockets",
    "files in memory",
    "shared memory of nobody",
    "a file in /tmp that is executed",
    "children beyond the limit",
    "an exception named passed",
}


def surprises(way: Way, chosen: list[Attempt]) -> list[str]:
    """What came out differently than expected."""
    results = run(way, chosen)
    if isinstance(results, str):
        pytest.skip(results)
    return [f"{each.attempt}: {each.got_out or each.detail}" for each in results if not each.passed]


def test_the_table_has_those_of_the_review_and_forty_more() -> None:
    names = [each.name for each in attempts()]
    assert len(names) == len(set(names))
    assert Counter(each.review for each in attempts())[False] >= 40
    assert [each.name for each in attempts() if each.expect == "possible" and not each.review] == []


@pytest.mark.parametrize("way", ways(), ids=str)
def test_nothing_gets_out(way: Way) -> None:
    chosen = [each for each in attempts() if each.name in FEW]
    assert len(chosen) == len(FEW)
    assert surprises(way, chosen) == []


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("way", ways(), ids=str)
def test_nothing_gets_out_any_way(way: Way, group: str) -> None:
    assert surprises(way, [each for each in attempts() if each.group == group]) == []


def test_without_isolation_the_same_attempts_do_get_out() -> None:
    """Else they would show nothing."""
    names = {"passwords", "a file in the host's /tmp", "an abstract socket of the host", "the session keyring"}
    results = run(Way("none", ways()[0].who), [each for each in attempts() if each.name in names])
    assert not isinstance(results, str)
    assert [each.attempt for each in results if each.got_out is None or each.passed] == []


@pytest.mark.slow
@pytest.mark.skipif(not HUMANEVAL.is_file(), reason=f"{HUMANEVAL} is not there")
@pytest.mark.parametrize("way", ways(), ids=str)
def test_humanevals_solutions_pass_any_way(way: Way) -> None:
    problems = [json.loads(line) for line in HUMANEVAL.read_text().splitlines()]
    programs = [
        Attempt(
            name=each["task_id"],
            group="good",
            program=f"{each['prompt']}{each['canonical_solution']}\n{each['test']}\ncheck({each['entry_point']})",
            seconds=5,
            prelude=False,
        )
        for each in problems
    ]
    assert len(programs) == 164
    assert surprises(way, programs) == []
