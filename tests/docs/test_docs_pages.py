"""README and docs: links lead somewhere, README stays short, the picture shows the stored page, terms are explained."""

import hashlib
import re
from pathlib import Path

import pytest
import yaml

from pipeline.config import PROJECT_ROOT
from tools.page_picture import PAGE, PICTURE, marked, shown

PAGES = sorted([*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
GLOSSARY = (PROJECT_ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
TERMS = (
    *("TTFT", "TPOT", "ITL", "E2EL", "SLO", "goodput", "observer", "group size", "per-channel", "zero point"),
    *("perplexity", "KL divergence", "nats", "Holm's correction", "non-inferiority", "margin", "frontier", "roofline"),
    *("gate", "guard", "protocol", "canary", "block", "emulated", "tolerance", "CUDA graph"),
)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT_ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_readme_begins_with_the_question_and_stays_short() -> None:
    assert len(README.splitlines()) < 200
    head = README[: README.index("\n## ")]
    assert "make compare MODEL=" in head and "docs/report.png" in head


def test_the_disk_in_readme_is_that_of_the_formats() -> None:
    """The study's formats of Qwen3-8B, as docs/formats.md has them; BF16 is a link to the download."""
    study = yaml.safe_load((PROJECT_ROOT / "conf" / "experiment" / "study.yaml").read_text())["variants"]
    formats = (PROJECT_ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    sizes = {
        name: float(size) for name, size in re.findall(r"^\| `(\w+)` \| [\d.]+ \| ([\d.]+) GB", formats, re.MULTILINE)
    }
    assert f"{sum(sizes.get(name, 0) for name in study):.0f} GB for the study's formats" in README


def test_every_page_is_linked_from_readme_or_a_page_that_is() -> None:
    reached, queue = set(), [PROJECT_ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8")))
        queue += [(page.parent / name).resolve() for name in links if name and (page.parent / name).is_file()]
    assert {page for page in PAGES if page.name != "CLAUDE.md"} <= reached


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_explained_once_and_briefly(term: str) -> None:
    rows = re.findall(rf"^\| [^|]*\*\*{re.escape(term)}\*\*[^|]*\| (.+) \|$", GLOSSARY, re.MULTILINE)
    assert len(rows) == 1 and len(re.sub(r"\]\([^)]*\)", "]", rows[0]).split()) < 60


def test_the_picture_shows_the_stored_page() -> None:
    assert shown(PICTURE.read_bytes()) == hashlib.sha256(PAGE.read_bytes()).hexdigest(), "make docs"


def test_a_picture_keeps_its_pixels_when_it_is_marked() -> None:
    picture = PICTURE.read_bytes()
    again = marked(picture, "0" * 64)
    assert shown(again) == shown(picture) and len(again) > len(picture), "the first mark counts"
    assert again.startswith(picture[: picture.index(b"tEXt") - 4])


def test_the_image_is_made_from_a_lock() -> None:
    text = (PROJECT_ROOT / "Dockerfile").read_text()
    version = re.search(r"^FROM python:(3\.\d+)-", text, re.MULTILINE)
    assert version is not None and version[1] in ("3.11", "3.12")
    assert "install HARDWARE=${HARDWARE}" in text
    for hardware in re.findall(r"HARDWARE=(\w+)", text):
        assert (PROJECT_ROOT / "requirements" / f"{hardware}.txt").is_file()
