"""The report's page as tests look at it: its elements, its colours, and a text that attacks it."""

from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

from pipeline.stages import report

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{7*7}}{% x %}|`*_[a](b)[red]x[/] \x1b[31m‮"
# Texts that each of a page, a document, a terminal, a spreadsheet and a log may take for orders.
PAYLOADS = (
    ATTACK,
    "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "\x1b]0;title\x07\x1b[2J\x1b[H\x1bc",
    "\x9b31m\x9d0;title\x9c\x90q\x9c",
    "\r\x08\x08\x7f\x00\x0b\x0c",
    "‮gnp.exe‬ ⁦⁧⁩ ؜‎‏",
    "[bold red on white]x[/bold red on white][/nothing][link=http://evil.example]y[/link]",
    "![x](javascript:alert(1)) [x](http://evil.example 't') <http://evil.example> <a href=//evil>",
    "| a | b |\n|---|---|\n# heading\n\n---\n- item\n1. item\n> quote\n```\ncode\n~~~\n    indented",
    "{{ 7 * 7 }}{% raw %}{# x #}{% include 'x' %}${7*7}<%= 7 %>",
    "<svg onload=alert(1)><style>*{}</style><!-- --><iframe src=x>&#60;script&#62;&lt;img&gt;",
    "' onmouseover='alert(1)' x='\" autofocus onfocus=\"alert(1)",
    "]]><script>alert(1)</script><![CDATA[",
    '=HYPERLINK("http://evil.example")',
)
VOID = {"meta", "br", "wbr", "img", "link", "input", "hr", "col", "base", "embed", "source"}


class Page(HTMLParser):
    """What elements, attributes and texts a page has, and whether its elements are closed."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """WCAG 2.2's contrast ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def palettes():
    style = (Path(report.__file__).parent / "renderers" / "templates" / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    return [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]


def shortened(spec):
    """The spec with two rows of each of its data: the schema says little of rows and takes long over each."""
    if isinstance(spec, dict):
        return {k: v[:2] if k == "values" else shortened(v) for k, v in spec.items()}
    return [shortened(each) for each in spec] if isinstance(spec, list) else spec


def obeyed(text: str) -> set[str]:
    """The characters that terminals obey or that turn the direction of writing."""
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    marks = "\u061c\u200e\u200f"
    return {
        each
        for each in text
        if (unicodedata.category(each) == "Cc" and each not in "\n\t")
        or unicodedata.bidirectional(each) in turning
        or each in marks
    }
