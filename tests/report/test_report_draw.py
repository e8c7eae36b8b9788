"""Charts become SVG in two processes; what is drawn does not depend on which of them is there."""

from __future__ import annotations

import json

from pipeline.report.charts import draw
from pipeline.report.charts.vega import Chart

BARS = {
    "mark": "bar",
    "data": {"values": [{"a": "<b>", "n": 1}, {"a": "ü\n", "n": 2}]},
    "encoding": {"x": {"field": "n", "type": "quantitative"}, "y": {"field": "a", "type": "nominal"}},
}


def test_the_second_one_draws_what_the_first_one_does() -> None:
    spec = json.dumps(BARS)
    assert draw._drawn_aside(spec) == draw._drawn(spec)


def test_without_a_second_one_the_first_draws_everything() -> None:
    charts = [Chart.of(f"bars-{n}", "Bars", "", lambda layout, n=n: {**BARS, "height": 40 + n}) for n in range(3)]
    drawn = draw.svgs(charts)
    draw._second().kill()
    draw._second().wait()
    draw._drawn_aside.cache_clear()
    try:
        assert draw.svgs(charts) == drawn
    finally:
        draw._second.cache_clear()
    assert list(drawn) == ["bars-0", "bars-1", "bars-2"] and all(svg.count("<svg") == 2 for svg in drawn.values())
