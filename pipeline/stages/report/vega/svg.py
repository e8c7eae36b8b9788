"""From Vega-Lite charts to SVG that belongs to the page, and to PNG; vl-convert draws without a browser.

Colours are CSS variables, so that one drawing serves the light and the dark page. A mark's description becomes its
`<title>`, which browsers show to whoever points at it.
"""

from __future__ import annotations

import atexit
import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from threading import Lock, Thread
from xml.etree import ElementTree

from markupsafe import Markup

from pipeline.stages.report.vega import svg_cache
from pipeline.stages.report.vega.spec import NARROW, WIDE, Chart

NAMESPACE = "{http://www.w3.org/2000/svg}"
VEGA_LITE = "6.1"
REFERENCES = ("clip-path", "fill", "stroke", "filter", "mask")


def svgs(charts: Iterable[Chart]) -> dict[str, Markup]:
    """Each chart by its name, as one `<svg>` element for each layout.

    Every text in them is escaped, because they are built as trees.
    """
    found = list(charts)
    with ThreadPoolExecutor(1) as aside:
        narrow = [aside.submit(_svg, chart, NARROW.name, _drawn_aside) for chart in found]
        wide = [_svg(chart, WIDE.name, _drawn) for chart in found]
        drawn = {
            chart.name: Markup(one) + Markup(other.result())
            for chart, one, other in zip(found, wide, narrow, strict=True)
        }
    svg_cache.evict()
    return drawn


@cache
def warm_up() -> None:
    """Starts vl-convert's engines, half a second each, beside whatever is done until there is something to draw.

    An engine has one thread of its own, and lets go of Python's lock while it works: its drawings wait for each other.
    Where drawings are kept they may not be needed at all, and start when they are.
    """
    if svg_cache.has_some():
        return
    for draw in (_drawn, _drawn_aside):
        Thread(target=draw, args=(json.dumps({"mark": "point"}),), daemon=True).start()


def _drawn(spec: str) -> str:
    import vl_convert

    text: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])
    return text


def _drawn_aside(spec: str) -> str:
    second = _second()
    with _turn:
        assert second.stdin is not None and second.stdout is not None
        try:
            second.stdin.write(f"{spec}\n")
            second.stdin.flush()
            answer = second.stdout.readline()
        except OSError:
            answer = ""
    # Where there is no second one (no memory for it, killed), the first one draws it all.
    return str(json.loads(answer)) if answer else _drawn(spec)


_turn = Lock()


@cache
def _second() -> Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("svg_worker.py")), VEGA_LITE]
    second = Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True)
    atexit.register(second.communicate)
    return second


def _svg(chart: Chart, layout: str, draw: Callable[[str], str]) -> str:
    root = ElementTree.fromstring(svg_cache.drawing(json.dumps(chart.specs[layout]), draw))
    for element in list(root.iter()):
        for child in filter(_is_unseen, list(element)):
            element.remove(child)
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


def _is_unseen(element: ElementTree.Element) -> bool:
    """True for the frame that Vega gives every group and that has neither fill nor stroke: a third of a drawing."""
    frame = element.get("class") in ("background", "foreground")
    return frame and element.get("fill", "none") == "none" and "stroke" not in element.attrib


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
