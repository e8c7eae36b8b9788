"""Charts become SVG in two processes; what is drawn does not depend on which of them is there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline.report.charts import draw, kept
from pipeline.report.charts.vega import Chart

BARS = {
    "mark": "bar",
    "data": {"values": [{"a": "<b>", "n": 1}, {"a": "ü\n", "n": 2}]},
    "encoding": {"x": {"field": "n", "type": "quantitative"}, "y": {"field": "a", "type": "nominal"}},
}


def test_the_second_one_draws_what_the_first_one_does() -> None:
    spec = json.dumps(BARS)
    assert draw._drawn_aside(spec) == draw._drawn(spec)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "drawings"
    monkeypatch.setenv(kept.CACHE, str(folder))
    return folder


def test_without_a_second_one_the_first_draws_everything(cache: Path) -> None:
    charts = [Chart.of(f"bars-{n}", "Bars", "", lambda layout, n=n: {**BARS, "height": 40 + n}) for n in range(3)]
    drawn = draw.svgs(charts)
    draw._second().kill()
    draw._second().wait()
    shutil.rmtree(cache)
    try:
        assert draw.svgs(charts) == drawn
    finally:
        draw._second.cache_clear()
    assert list(drawn) == ["bars-0", "bars-1", "bars-2"] and all(svg.count("<svg") == 2 for svg in drawn.values())


def test_what_was_drawn_before_is_not_drawn_again(cache: Path) -> None:
    charts = [Chart.of("bars", "Bars", "", lambda layout: {**BARS, "width": layout.width})]
    assert not kept.has_some()
    drawn = draw.svgs(charts)
    assert kept.has_some() and len(list(cache.iterdir())) == 2

    def never(spec: str) -> str:
        raise AssertionError(spec)

    assert draw._svg(charts[0], "wide", never) in drawn["bars"]
    with pytest.raises(AssertionError):
        kept.drawing(json.dumps({**BARS, "height": 1}), never)


def test_the_least_recently_used_are_forgotten(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT", 2)
    for age, spec in enumerate("abc"):
        kept.drawing(spec, str.upper)
        for path in cache.iterdir():
            os.utime(path, (path.stat().st_atime - 10, path.stat().st_mtime - 10 - age))
    assert kept.drawing("a", str.lower) == "A"
    kept.forget()
    assert [kept.drawing(spec, str.lower) for spec in "acb"] == ["A", "C", "b"]


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.write_text("no folder")
    assert kept.drawing("a", str.upper) == "A"
    kept.forget()
