"""From a Vega-Lite chart to SVG that belongs to the page: it takes the page's colours and font, and needs no script.

vl-convert draws without a browser. Colours are CSS variables, so one drawing serves the light and the dark page. A
mark's description becomes its `<title>`, which browsers show to whoever points at it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

NAMESPACE = "{http://www.w3.org/2000/svg}"
VEGA_LITE = "6.1"
REFERENCES = ("clip-path", "fill", "stroke", "filter", "mask")


def draw(spec: dict[str, Any], name: str, description: str) -> str:
    """The chart as an `<svg>` element to be put into HTML; `name` keeps the ids of several charts apart."""
    import vl_convert

    text = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])
    root = ElementTree.fromstring(text)
    for element in list(root.iter()):
        element.tag = element.tag.removeprefix(NAMESPACE)
        _adopt(element, name)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": description,
        "class": f"chart {name.rpartition('-')[2]}",
        "style": f"--natural: {root.attrib['width']}px",
    }
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def drawn(drawings: Iterable[str]) -> Markup:
    """Charts as markup: `draw` has built them as a tree, so every text in them is escaped."""
    return Markup("").join(Markup(drawing) for drawing in drawings)


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
