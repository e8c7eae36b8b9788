"""Charts become SVG in two processes; what is drawn does not depend on which of them is there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline.stages.report.vega import svg, svg_cache
from pipeline.stages.report.vega.spec import Chart

BARS = {
    "mark": "bar",
    "data": {"values": [{"a": "<b>", "n": 1}, {"a": "ü\n", "n": 2}]},
    "encoding": {"x": {"field": "n", "type": "quantitative"}, "y": {"field": "a", "type": "nominal"}},
}


def test_the_second_one_draws_what_the_first_one_does() -> None:
    spec = json.dumps(BARS)
    assert svg._draw_in_worker(spec) == svg._draw(spec)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "drawings"
    monkeypatch.setenv(svg_cache.CACHE, str(folder))
    return folder


def test_without_a_second_one_the_first_draws_everything(cache: Path) -> None:
    charts = [Chart(f"bars-{n}", "Bars", "", lambda layout, n=n: {**BARS, "height": 40 + n}) for n in range(3)]
    drawn = svg.svgs(charts)
    svg._worker().kill()
    svg._worker().wait()
    shutil.rmtree(cache)
    try:
        assert svg.svgs(charts) == drawn
    finally:
        svg._worker.cache_clear()
    assert list(drawn) == ["bars-0", "bars-1", "bars-2"] and all(svg.count("<svg") == 2 for svg in drawn.values())


def test_what_was_drawn_before_is_not_drawn_again(cache: Path) -> None:
    charts = [Chart("bars", "Bars", "", lambda layout: {**BARS, "width": layout.width})]
    assert not svg_cache.has_some()
    drawn = svg.svgs(charts)
    assert svg_cache.has_some() and len(list(cache.iterdir())) == 2

    def never(spec: str) -> str:
        raise AssertionError(spec)

    assert svg._svg(charts[0], "wide", never) in drawn["bars"]
    with pytest.raises(AssertionError):
        svg_cache.drawing(json.dumps({**BARS, "height": 1}), never)


def test_the_least_recently_used_are_forgotten(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg_cache, "MAX_DRAWINGS", 2)
    for age, spec in enumerate("abc"):
        svg_cache.drawing(spec, str.upper)
        for path in cache.iterdir():
            os.utime(path, (path.stat().st_atime - 10, path.stat().st_mtime - 10 - age))
    assert svg_cache.drawing("a", str.lower) == "A"
    svg_cache.evict()
    assert [svg_cache.drawing(spec, str.lower) for spec in "acb"] == ["A", "C", "b"]


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.write_text("no folder")
    assert svg_cache.drawing("a", str.upper) == "A"
    svg_cache.evict()
