"""The report as one self-contained HTML file: style, charts and script are embedded, so it works offline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from pipeline.compare.words import SYMBOLS
from pipeline.results.text import clean
from pipeline.stages.report.blocks import Block, Cell, Page
from pipeline.stages.report.vega import svg


def render(page: Page) -> str:
    """Return the whole page; each block is written by the macro of its kind."""
    environment = Environment(
        loader=PackageLoader("pipeline.stages.report.renderers"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        finalize=inert,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": breakable, "merged": merged}

    def write(blocks: Iterable[Block]) -> Markup:
        return Markup("").join(getattr(macros, block.kind)(block) for block in blocks if "page" in block.media)

    shared = {"charts": svg.svgs(page.charts), "write": write, "symbols": SYMBOLS}
    macros = environment.get_template("blocks.html.jinja").make_module(shared)
    return environment.get_template("page.html.jinja").render(page=page, write=write)


def inert(value: object) -> object:
    """Remove control characters and direction overrides of a text; markup is the templates' own and the charts'."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def breakable(text: str) -> Markup:
    """Allow line breaks after the separators of paths and names, for narrow screens."""
    safe = str(Markup.escape(clean(text)))
    return Markup(safe.replace("/", "/<wbr>").replace("_", "_<wbr>").replace("=", "=<wbr>"))


def merged(cells: Sequence[Cell], is_summary: bool) -> Iterator[tuple[Cell, int, bool]]:
    """Yield cells with the number of columns they span and True if the reason of a missing one is to be shown.

    Adjacent missing cells with the same reason are merged, except in a summary, whose rows are cards on a phone.
    """
    index, reasons = 0, set[str]()
    while index < len(cells):
        span, reason = 1, cells[index].missing
        while not is_summary and reason and index + span < len(cells) and cells[index + span].missing == reason:
            span += 1
        yield cells[index], span, reason not in reasons
        reasons.add(reason)
        index += span
