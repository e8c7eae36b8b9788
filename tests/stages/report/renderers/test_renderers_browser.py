"""The page in a real browser, offline: what is drawn, what can be done with it, and how fast.

Debian's Chromium, driven by Playwright. Where it is not installed these tests are skipped; in CI that is a failure.
"""

import os
import shutil
import statistics
from pathlib import Path

import pytest
from support.first_screens import CASES, make
from support.synthetic_calibration import write_summary
from support.synthetic_results import TWELVE, Run

from pipeline.stages import report

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCHEMES, WIDTHS = ("light", "dark"), (390, 1440)
OUTSIDE = """() => [...document.querySelectorAll("body *")].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width && !e.closest(".scroll, .contents, .sr, svg") && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map((e) => e.tagName + "." + e.className)"""
# What sticks out of the paper, also out of a table that would scroll on a screen.
CUT = """() => [...document.querySelectorAll("main *")].filter((e) => {
  const box = e.getBoundingClientRect();
  const isOut = box.right > innerWidth + 1 || box.left < -1;
  return isOut && e.checkVisibility() && box.width && !e.closest("svg, .sr, .skip");
}).map((e) => e.tagName + "." + e.className)"""
# Milliseconds from the navigation until a heading was clicked, has sorted its table, and the page was drawn again.
ANSWERED = """window.answered = new Promise((resolve) => document.addEventListener("DOMContentLoaded", () => {
  document.querySelector("table.study th button").click();
  requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now())));
}))"""
# Every text against the nearest background behind it, by WCAG 2.2: 4.5, or 3 where it is large.
FAINT = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const v = c[i] / 255; return sum + weight * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.data.trim() || !element.checkVisibility() || element.closest("script, style, title")) continue;
    let behind = element;
    while (behind && parse(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const ground = parse(getComputedStyle(behind ?? document.body).backgroundColor);
    const ink = parse(element.closest("svg.chart") ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.6 && style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    const name = `${element.tagName}.${element.className.baseVal ?? element.className}`;
    if (ratio < (large ? 3 : 4.5)) faint.add(`${name}: ${ratio.toFixed(2)}`);
  }
  return [...faint];
}"""


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("twelve"), TWELVE)
    write_summary(run)
    report.make(run.jobs, run.failures)
    return run.outputs / "tiny" / "report" / "index.html"


@pytest.fixture
def opened(browser, path):
    """Opens the page; what the console said and what was asked of the network are on it."""
    contexts = []

    def open_page(width=1440, scheme="light", script="", **more):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(script)
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.alone
def test_the_page_is_small_and_quick(opened, path):
    assert path.stat().st_size < 5_000_000
    pages = [opened(script=ANSWERED) for _ in range(3)]
    times = [page.evaluate("answered") for page in pages]
    print(f"interactive after {', '.join(f'{ms:.0f}' for ms in times)} ms")
    assert statistics.median(times) < 2000
    for page in pages:
        assert page.locator("table.study th[aria-sort]").count() == 1
        assert page.asked == [path.as_uri()] and page.said == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_can_be_read(opened, tmp_path, width, scheme):
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(FAINT) == []
    layout = "narrow" if width < 760 else "wide"
    charts = page.locator("svg.chart:visible")
    figures = page.locator("figure").count()
    assert charts.count() == figures == page.locator(f"svg.chart.{layout}").count() >= 7
    for chart in charts.all():
        box = chart.bounding_box()
        assert box["width"] > 200 and box["height"] > 80 and chart.locator("path").count() > 5
    # A picture that is all of one colour would show nothing.
    picture = charts.first.screenshot(path=tmp_path / "chart.png")
    assert len(picture) > 4000
    assert page.said == []


@pytest.mark.parametrize("part", [".answer", ".prose p"])
def test_what_is_faint_or_sticks_out_is_found(opened, part):
    page = opened(390)
    page.evaluate("(e) => { e.style.color = '#8a8f96'; e.style.width = '500px'; }", page.query_selector(part))
    name = page.evaluate("(e) => `${e.tagName}.${e.className}`", page.query_selector(part))
    assert [each.split(":")[0] for each in page.evaluate(FAINT)] == [name]
    assert name in page.evaluate(OUTSIDE)


def test_the_table_sorts_by_keyboard(opened):
    page = opened()
    names = page.locator("#results table.study").locator("tbody th")
    before = names.all_inner_texts()
    button = page.locator("#results th button", has_text="Throughput").first
    button.focus()
    figures = page.locator("#results table.study").locator("tbody tr td:nth-child(2)")

    def shown():
        return [float(t) for t in figures.evaluate_all("cells => cells.map((c) => c.dataset.sort)") if t is not None]

    for order, best_first in (("descending", True), ("ascending", False)):
        page.keyboard.press("Enter")
        assert page.locator(f"table.study th[aria-sort={order}]").count() == 1
        assert shown() == sorted(shown(), reverse=best_first) and len(shown()) == 8
        # What has no figure is at the end whichever way.
        assert "NVFP4" in names.all_inner_texts()[-1]
    page.keyboard.press("Enter")
    assert names.all_inner_texts() == before and page.locator("table.study th[aria-sort]").count() == 0


def test_marks_say_what_they_are(opened):
    page = opened()
    mark = page.locator("svg.chart.wide path:has(> title)").first
    mark.hover()
    tip = page.locator("#tip")
    assert tip.is_visible() and "percentile of TTFT" in tip.inner_text()
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= 1440
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_without_scripts_nothing_is_hidden(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("table.study").first.is_visible() and page.locator("svg.chart:visible").count() >= 7
    assert page.locator("svg.chart title").count() > 30


def test_the_results_are_on_few_pages_of_paper_and_nothing_is_cut(opened, tmp_path):
    page = opened(scheme="dark")
    content = page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    assert content.startswith(b"%PDF")
    assert 2 <= content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") <= 8
    page.emulate_media(media="print")
    # The width of A4 between the margins.
    page.set_viewport_size({"width": 688, "height": 900})
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(FAINT) == [] and page.evaluate(CUT) == []
    assert not page.locator("#roofline").is_visible() and page.locator("#results").is_visible()


def test_everything_can_be_printed(opened):
    page = opened(
        script="window.print = () => { window.printed = document.querySelectorAll('details:not([open])').length; }"
    )
    page.locator("#all").click()
    assert page.evaluate("printed") == 0
    assert page.locator("details[open]").count() == 0


def test_sections_can_be_opened_and_reached_by_keyboard(opened):
    page = opened(390)
    summary = page.locator("details.card > summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("details.card[open]").count() == 1
    for card in page.locator("details").all():
        card.evaluate("(e) => { e.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(FAINT) == []


def test_nothing_overlaps_the_names_of_a_table_that_was_scrolled(opened):
    page = opened(390)
    box = page.locator("#results .scroll").first
    box.evaluate("(e) => { e.scrollLeft = 160; }")
    covered = """(e) => [...e.querySelectorAll("tbody th")].filter((th) => {
      const b = th.getBoundingClientRect();
      th.scrollIntoView({block: "center"});
      const r = th.getBoundingClientRect();
      return [[4, 4], [r.width / 2, r.height / 2], [r.width - 4, r.height - 4]].some(([x, y]) =>
        !th.contains(document.elementFromPoint(Math.max(r.left, 0) + x, r.top + y)));
    }).map((th) => th.textContent)"""
    assert box.evaluate(covered) == []


@pytest.fixture(scope="module")
def first_screens(tmp_path_factory):
    """A page of each kind of answer."""
    return {case: make(case, tmp_path_factory.mktemp(case))[1] for case in CASES}


@pytest.mark.parametrize("size", [(390, 844), (1440, 900)])
@pytest.mark.parametrize("case", CASES)
def test_the_first_screen_has_the_answer_its_cost_and_its_command(opened, first_screens, tmp_path, case, size):
    """PIPELINE_SCREENSHOTS=<folder> keeps the pictures, to be looked at."""
    page = opened(size[0])
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(first_screens[case].as_uri())
    pictures = Path(os.environ.get("PIPELINE_SCREENSHOTS") or tmp_path)
    pictures.mkdir(exist_ok=True)
    page.screenshot(path=pictures / f"{case}-{size[0]}.png")
    chosen = page.locator("table.summary tr:has(.chosen)")
    parts = [page.locator(".verdict .answer"), page.locator(".verdict .copy code").first]
    # What is chosen, with all of its figures; without an answer the baseline.
    parts.append(chosen if chosen.count() else page.locator("table.summary tr.baseline"))
    for part in parts:
        box = part.bounding_box()
        assert box["y"] + box["height"] <= size[1] and box["x"] >= 0 and box["x"] + box["width"] <= size[0]
    assert (case == "noise") == (chosen.count() == 0)
    assert page.locator("table.summary").bounding_box()["width"] <= size[0]


def test_the_whole_table_is_on_the_first_screen_of_a_desktop(opened):
    page = opened(1440)
    box = page.locator("table.summary tbody tr").nth(3).bounding_box()
    assert box["y"] + box["height"] <= 900 and box["x"] + box["width"] <= 1440


def test_the_first_stop_of_the_keyboard_skips_to_the_verdict(opened):
    page = opened()
    page.keyboard.press("Tab")
    link = page.locator("a.skip")
    assert link.evaluate("(e) => e === document.activeElement") and link.bounding_box()["y"] >= 0


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(WIDTHS[0], SCHEMES[0]), pytest.param(WIDTHS[1], SCHEMES[1], marks=pytest.mark.slow)],
)
def test_axe_finds_no_violation(opened, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    page = opened(width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found] == []
