"""The decision of `stage=gate` on changes of every kind, and what it says of each."""

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from support.report_page import PAYLOADS, obeyed

from pipeline.compare.history import History, ResultChange
from pipeline.compare.run_figures import Figure
from pipeline.compare.stats.intervals import Interval
from pipeline.errors import Regression, StageError, Undecided
from pipeline.stages.report import gate


def change(movement: str, variant: str = "awq", **fields: Any) -> ResultChange:
    """A throughput that fell from 1,234.5 to 1,000 tok/s, by 19 % of 17 to 21 %."""
    figures = (Figure(value=1234.5, interval=None), Figure(value=1000.0, interval=None))
    own = {
        **{"label": variant.upper(), "column": "throughput", "title": "Throughput", "unit": "tok/s"},
        **{"figures": figures, "change": -19.0, "interval": Interval(low=-21.04, high=-17.0)},
    }
    return ResultChange(variant=variant, movement=movement, **{**own, **fields})


def unknown(movement: str, variant: str = "awq", **fields: Any) -> ResultChange:
    return change(movement, variant, change=None, interval=None, **{"reason": "measured on another machine", **fields})


class Gate:
    """One run of the gate on stated changes, with what it printed and wrote."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: Any, *changes: ResultChange, strict: bool = False):
        found = History(runs=(), tolerance_percent=2.0, settings=(), versions=(), results=changes)
        settings: Any = SimpleNamespace(report=SimpleNamespace(tolerance_percent=2.0, fail_on_undecided=strict))
        asked: list[Any] = []
        self.cases: list[Any] = []
        monkeypatch.setattr(gate, "earlier", lambda settings: (("january", "old"), ("monday", "stored")))
        monkeypatch.setattr(gate, "side_by_side", lambda *given: asked.append(given) or found)
        monkeypatch.setattr(gate.ci_files, "write", lambda cases, name, settings: self.cases.extend([name, *cases]))
        shown = io.StringIO()
        try:
            report: Any = "now"
            self.failed = gate.gate(report, settings, Console(file=shown, width=200))
        finally:
            assert asked == [((("monday", "stored"),), "now", 2.0)], "against the last, and it alone"
            self.shown = shown.getvalue()
            self.line = capsys.readouterr().out


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *changes, **how: Gate(monkeypatch, capsys, *changes, **how)


def test_what_became_worse_or_is_gone_fails_and_all_else_does_not(gated: Any) -> None:
    gone = unknown("gone", title="MMLU", reason="not measured")
    found = gated(change("worse"), gone, change("better", "gptq"), change("unchanged", "fp8"), change("new", "int8"))
    assert set(found.failed) == {"awq"} and isinstance(found.failed["awq"], Regression)
    assert found.failed["awq"].problem == (
        "worse than monday: Throughput −19.0 % (−21.0 to −17.0); MMLU is gone (not measured)."
    )
    name, *cases = found.cases
    assert name == "monday" and [case.outcome for case in cases] == ["failed", "failed", "passed", "passed", "passed"]
    assert [case.word for case in cases] == ["worse", "gone", "better", "unchanged", "new"]


@pytest.mark.parametrize("strict", [False, True])
def test_what_may_be_worse_fails_on_request_alone(gated: Any, strict: bool) -> None:
    changes = (
        change("cannot tell"),
        unknown("not compared", "gptq"),
        change("cannot tell", "fp8", may_be_worse=False),
        change("worse", "int8"),
        change("cannot tell", "int8", title="MMLU"),
    )
    found = gated(*changes, strict=strict)
    assert set(found.failed) == ({"awq", "gptq", "int8"} if strict else {"int8"})
    assert isinstance(found.failed["int8"], Regression), "a regression counts more"
    outcomes = [case.outcome for case in found.cases[1:]]
    if strict:
        assert isinstance(found.failed["awq"], Undecided)
        assert found.failed["gptq"].problem == (
            "not shown to be as good as monday: Throughput cannot be compared (measured on another machine)."
        )
        assert outcomes == ["failed", "failed", "passed", "failed", "failed"]
    else:
        assert outcomes == ["passed", "skipped", "passed", "failed", "passed"]


def test_nothing_to_compare_is_no_pass(gated: Any) -> None:
    for changes, reasons in (
        ((), "no results"),
        ((change("new", reason=""),), "no results"),
        ((unknown("not compared"), unknown("not compared", "gptq"), change("new")), "measured on another machine"),
    ):
        with pytest.raises(StageError) as refused:
            gated(*changes)
        assert refused.value.problem == f"stage=gate: no figure of this run can be compared with monday ({reasons})."


def test_the_line_of_json_counts_figures_and_names_regressions(gated: Any) -> None:
    found = gated(change("worse"), change("unchanged"), change("unchanged", "gptq"))
    assert json.loads(found.line) == {
        "baseline": "monday",
        "summary": "1 worse, 2 unchanged",
        "figures": {"worse": 1, "unchanged": 2},
        "regressions": [
            {
                **{"variant": "awq", "column": "throughput", "unit": "tok/s", "change": -19.0},
                "interval": {"low": -21.04, "high": -17.0},
            }
        ],
    }


def test_the_table_has_what_moved(gated: Any) -> None:
    found = gated(change("worse"), change("unchanged", "gptq"), change("better", "fp8", reason="2 blocks to pair"))
    assert "Against monday" in found.shown and "1 worse, 1 unchanged, 1 better" in found.shown
    rows = [line for line in found.shown.splitlines() if "Throughput (tok/s)" in line]
    assert len(rows) == 2 and "GPTQ" not in found.shown
    assert rows[0].split()[0] == "AWQ" and "1,234.50" in rows[0] and rows[0].rstrip().endswith("worse")
    assert "1 figures were compared as independent samples" in found.shown
    quiet = gated(change("unchanged"))
    assert "Against" not in quiet.shown and "independent" not in quiet.shown and "1 unchanged" in quiet.shown


@pytest.mark.parametrize(
    ("fields", "before", "after", "moved"),
    [
        ({}, "1,234.50", "1,000.00", "−19.0 % (−21.0 to −17.0)"),
        ({"reason": "few"}, "1,234.50", "1,000.00", "−19.0 % (−21.0 to −17.0); few"),
        ({"unit": "%"}, "1,234.50", "1,000.00", "−19.0 points (−21.0 to −17.0)"),
        ({"unit": "bytes"}, "1,234", "1,000", "−19.0 %"),
        ({"interval": None}, "1,234.50", "1,000.00", "−19.0 %"),
        ({"change": None, "interval": None, "reason": "gone"}, "1,234.50", "1,000.00", "gone"),
        (
            {
                **{"unit": "nats/token", "change": 0.012345, "interval": Interval(low=-0.000011, high=0.02)},
                "figures": (None, Figure(value=0.1234567, interval=None)),
            },
            *("", "0.12346", "+0.01235 nats/token (−0.00001 to +0.02000)"),
        ),
        (
            {"figures": (Figure(value=5.0, interval=None), Figure(value=7.0, interval=None), None)},
            *("7.00", "", "−19.0 % (−21.0 to −17.0)"),
        ),
    ],
)
def test_figures_are_told_with_their_unit(fields: dict[str, Any], before: str, after: str, moved: str) -> None:
    unit = fields.get("unit", "tok/s")
    assert gate._cells(change("worse", **fields)) == ("AWQ", f"Throughput ({unit})", before, after, moved)


@pytest.mark.parametrize("text", PAYLOADS)
def test_what_a_stored_report_of_others_says_is_shown_and_obeyed_by_nothing(gated: Any, text: str) -> None:
    found = gated(change("worse", text, label=text, title=text, column=text, unit=text, reason=text))
    assert not obeyed(found.shown) and not obeyed(found.line)
    assert json.loads(found.line)["regressions"][0]["variant"] == text
