"""The charts as PNG files for slides: each with title and key, in the light colours, at twice the size of the page."""

from __future__ import annotations

import json
import re
from importlib.resources import files

from pipeline.stages.report.blocks import Page
from pipeline.stages.report.vega.spec import INK, MUTED, SURFACE, WIDE, Chart, Spec
from pipeline.stages.report.vega.svg import VEGA_LITE

SCALE = 2
VARIABLE = re.compile(r"var\(--([\w-]+)\)")


def render(page: Page) -> dict[str, bytes]:
    """Return a PNG for each chart, by its file name."""
    colours = light_colours()
    source = f"{page.model} on {page.machine}{f', {page.measured}' if page.measured else ''}"
    return {f"{chart.name}.png": _png(_slide(chart, source), colours) for chart in page.charts}


def light_colours() -> dict[str, str]:
    """Return the colours of the light page by variable name, from its style sheet."""
    style = files("pipeline.stages.report.renderers").joinpath("templates", "page.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", style[: style.index("}")]))


def _slide(chart: Chart, source: str) -> Spec:
    """Return the wide chart with title, key and source."""
    size = {"anchor": "start", "fontSize": WIDE.font + 7, "subtitleFontSize": WIDE.font + 1, "offset": 16}
    words = {"text": chart.title, "subtitle": [line for line in (chart.key, source) if line]}
    heading = {**words, **size, "color": INK, "subtitleColor": MUTED, "subtitlePadding": 6}
    return {**chart.specs[WIDE.name], "title": heading, "padding": 24, "background": SURFACE}


def _png(spec: Spec, colours: dict[str, str]) -> bytes:
    import vl_convert

    # Text from outside may contain such a variable; unknown names are left unchanged.
    text = VARIABLE.sub(lambda found: colours.get(found[1], found[0]), json.dumps(spec, ensure_ascii=False))
    content: bytes = vl_convert.vegalite_to_png(text, vl_version=VEGA_LITE, scale=SCALE, allowed_base_urls=[])
    return content
