"""From Vega-Lite charts to SVG that belongs to the page, and to PNG; vl-convert draws without a browser.

Colours are CSS variables, so that one drawing serves the light and the dark page. A mark's description becomes its
`<title>`, which browsers show to whoever points at it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

from markupsafe import Markup

from pipeline.report.charts.vega import Chart

NAMESPACE = "{http://www.w3.org/2000/svg}"
VEGA_LITE = "6.1"
REFERENCES = ("clip-path", "fill", "stroke", "filter", "mask")


def svgs(charts: Iterable[Chart]) -> dict[str, Markup]:
    """Each chart by its name, as one `<svg>` element for each layout.

    Every text in them is escaped, because they are built as trees.
    """
    drawings = [(chart, layout) for chart in charts for layout in chart.specs]
    # vl-convert lets go of Python's lock while it draws.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        drawn = list(pool.map(lambda drawing: _svg(*drawing), drawings))
    found: dict[str, Markup] = {}
    for (chart, _), text in zip(drawings, drawn, strict=True):
        found[chart.name] = found.get(chart.name, Markup()) + Markup(text)
    return found


def _svg(chart: Chart, layout: str) -> str:
    import vl_convert

    text = vl_convert.vegalite_to_svg(chart.specs[layout], vl_version=VEGA_LITE, allowed_base_urls=[])
    root = ElementTree.fromstring(text)
    for element in list(root.iter()):
        element.tag = element.tag.removeprefix(NAMESPACE)
        _adopt(element, f"{chart.name}-{layout}")
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": f"{chart.title}. {chart.key} The table below it has the figures.",
        "class": f"chart {layout}",
        "style": f"--natural: {root.attrib['width']}px",
    }
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _adopt(element: ElementTree.Element, name: str) -> None:
    """Drops what the page decides, keeps ids unique, and turns a description into what a pointer shows."""
    for attribute in ("font-family", "aria-roledescription", "pointer-events", "role", "aria-hidden"):
        element.attrib.pop(attribute, None)
    text = element.attrib.pop("aria-label", "")
    if text and element.tag == "path":
        title = ElementTree.Element("title")
        title.text = text
        element.insert(0, title)
    if "id" in element.attrib:
        element.attrib["id"] = f"{name}-{element.attrib['id']}"
    for attribute in REFERENCES:
        value = element.attrib.get(attribute, "")
        if value.startswith("url(#"):
            element.attrib[attribute] = f"url(#{name}-{value[5:]}"
