"""The measured figures of README, docs/benchmark.md and docs/results are those of the stored result files."""

import math
import re

import pytest

from pipeline.compare.stats.repeats import relative_change
from pipeline.results.metrics import THROUGHPUT, TPOT
from tools.headline import FIGURE, FIGURES, PAGES, TABLE, TABLES, page
from tools.stored_results import (
    ALL_CORES,
    GRAPHS,
    HOST_A,
    HOST_B,
    LADDER,
    STREAM,
    both_hosts,
    by_start,
    change,
    failed_guards,
    over_starts,
    pooled,
    speed,
    values,
)

TEXTS = {path.relative_to(PAGES[0].parent).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}


@pytest.mark.parametrize("name", TEXTS)
def test_every_figure_is_that_of_the_result_files(name: str) -> None:
    assert page(TEXTS[name]) == TEXTS[name], "make docs"


def test_a_figure_typed_by_hand_is_seen_and_mended() -> None:
    text = TEXTS["README.md"]
    altered = re.sub(r"(both hosts -->)[^<]*", r"\1+15 %", text)
    assert altered != text == page(altered)


def test_each_figure_and_table_is_shown() -> None:
    shown = {found["name"] for text in TEXTS.values() for found in (*FIGURE.finditer(text), *TABLE.finditer(text))}
    assert shown == {*FIGURES, *TABLES}


@pytest.mark.parametrize("name", TEXTS)
def test_no_line_starts_with_a_figure(name: str) -> None:
    """Markdown ends the paragraph at a line that starts with a comment."""
    assert not re.search(r"^ *<!-- figure", TEXTS[name], re.MULTILINE)


def test_both_hosts_together_gain_less_than_the_first_alone() -> None:
    """README quoted +15.4 % of one host; with the other, weighted by their variances, it is +10.2 % (+4.0 to +16.8)."""
    found = both_hosts("fp8_static", THROUGHPUT.name)
    assert found.percent == pytest.approx(10.23, abs=0.01)
    assert (found.interval.low, found.interval.high) == pytest.approx((4.04, 16.79), abs=0.01)
    assert (
        found.percent < relative_change(*(values(HOST_A, v, THROUGHPUT.name) for v in ("fp8_static", "bf16"))).percent
    )


def test_hosts_are_weighted_by_their_precision() -> None:
    exact, noisy = ([1.2, 1.2001, 1.1999], [1.0, 1.0001, 0.9999]), ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert pooled([exact, noisy]).percent == pytest.approx(20, abs=0.01)
    # Two hosts of the same noise: the geometric mean, with a standard error smaller by the root of two.
    one, two = pooled([noisy]), pooled([noisy, noisy])
    narrow, wide = (math.log1p(each.interval.high / 100) for each in (two, one))
    assert narrow == pytest.approx(wide / math.sqrt(2))


def test_starts_as_values_agree_with_the_report_and_a_third_start_narrows_them() -> None:
    report = change(ALL_CORES, "fp8_static", THROUGHPUT.name)
    two = over_starts([ALL_CORES], "fp8_static", THROUGHPUT.name)
    assert report.interval is not None and two.percent == pytest.approx(report.percent, abs=0.1)
    assert (two.interval.low, two.interval.high) == pytest.approx((report.interval.low, report.interval.high), abs=1)
    three = over_starts([ALL_CORES, GRAPHS], "fp8_static", THROUGHPUT.name)
    assert two.interval.low < 0 < three.interval.low < three.percent < three.interval.high < two.interval.high
    assert [len(repeats) for repeats in by_start(ALL_CORES, "bf16", THROUGHPUT.name)] == [3, 3]


def test_marks_are_those_of_the_stored_guards() -> None:
    assert failed_guards(HOST_A, "bf16", LADDER, "concurrency 1") == ()
    assert "GPU processes" in failed_guards(HOST_B, "bf16", LADDER, "concurrency 1")
    assert failed_guards(HOST_A, "fp8_static", LADDER, "concurrency 1") is None
    assert failed_guards(HOST_B, "fp8_dynamic", "study") == ("other processes",)
    text = TEXTS["docs/results/README.md"]
    assert re.search(r"FP8 dynamic \|.* †", text) and "Every guard passed" not in text


def test_an_unfinished_benchmark_is_read_from_its_repeats() -> None:
    found = speed(HOST_A, "fp8_static", LADDER)
    assert not found.guards and {len(load.metrics[TPOT.name].values) for load in found.loads} == {1, 3}
    assert speed(HOST_A, "gptq", STREAM) is None


def test_no_typed_gain_is_left_in_the_pages() -> None:
    """A change with an interval is rendered; what stands outside of figures and tables has none."""
    for name, text in TEXTS.items():
        typed = TABLE.sub("", FIGURE.sub("", text))
        assert not re.search(r"[+−]\d+\.\d % \(", typed), name
