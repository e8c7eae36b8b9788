"""From Vega-Lite charts to SVG for the page; vl-convert renders without a browser.

Colours are CSS variables, so that one drawing serves the light and the dark page. A mark's description becomes its
`<title>`, which browsers show on hover.
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
    """Return each chart by its name, as one `<svg>` element for each layout.

    All text in them is escaped, because they are built as element trees.
    """
    charts = list(charts)
    with ThreadPoolExecutor(1) as executor:
        narrow = [executor.submit(_svg, chart, NARROW.name, _draw_in_worker) for chart in charts]
        wide = [_svg(chart, WIDE.name, _draw) for chart in charts]
        drawn = {
            chart.name: Markup(one) + Markup(other.result())
            for chart, one, other in zip(charts, wide, narrow, strict=True)
        }
    svg_cache.evict()
    return drawn


@cache
def warm_up() -> None:
    """Start vl-convert's engines in background threads; each takes half a second to start.

    An engine is single-threaded and releases the GIL while it draws. With cached drawings the engines may not be
    needed, so they start on demand.
    """
    if svg_cache.has_some():
        return
    for draw in (_draw, _draw_in_worker):
        Thread(target=draw, args=(json.dumps({"mark": "point"}),), daemon=True).start()


def _draw(spec: str) -> str:
    import vl_convert

    text: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])
    return text


def _draw_in_worker(spec: str) -> str:
    worker = _worker()
    with _worker_lock:
        assert worker.stdin is not None and worker.stdout is not None
        try:
            worker.stdin.write(f"{spec}\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except OSError:
            answer = ""
    # Without a worker (out of memory, killed), this process draws.
    return str(json.loads(answer)) if answer else _draw(spec)


_worker_lock = Lock()


@cache
def _worker() -> Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("svg_worker.py")), VEGA_LITE]
    worker = Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True)
    atexit.register(worker.communicate)
    return worker


def _svg(chart: Chart, layout: str, draw: Callable[[str], str]) -> str:
    root = ElementTree.fromstring(svg_cache.drawing(json.dumps(chart.specs[layout]), draw))
    for element in list(root.iter()):
        for child in filter(_is_invisible, list(element)):
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


def _is_invisible(element: ElementTree.Element) -> bool:
    """Return True for the frame of a Vega group without fill and stroke; these are a third of a drawing."""
    frame = element.get("class") in ("background", "foreground")
    return frame and element.get("fill", "none") == "none" and "stroke" not in element.attrib


def _adopt(element: ElementTree.Element, name: str) -> None:
    """Remove attributes that the page defines, make ids unique, and turn a description into hover text."""
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
