"""The picture of README.md: the first screen of a stored report's page, by Chromium.

`make docs` takes it again where the page has changed: the picture holds the hash of the page that it shows.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from tools.stored_results import DEMO, FOLDER

PAGE = FOLDER / DEMO / "report.html"
PICTURE = FOLDER.parent / "report.png"
# The decision and its table.
SIZE = (1200, 590)
KEYWORD = b"page-sha256"
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def main() -> None:
    """Take the picture if it shows another page; print whether it changed."""
    digest = hashlib.sha256(PAGE.read_bytes()).hexdigest()
    if PICTURE.is_file() and shown(PICTURE.read_bytes()) == digest:
        print(f"{PICTURE.name}: unchanged")
    elif browser := shutil.which("chromium") or shutil.which("chromium-browser"):
        PICTURE.write_bytes(marked(screenshot(PAGE, browser), digest))
        print(f"{PICTURE.name}: written")
    else:
        print(f"{PICTURE.name}: shows an older page, since Chromium is not installed (apt-get install chromium)")


def screenshot(page: Path, browser: str) -> bytes:
    """Return the first screen of a page as PNG, in light colours."""
    from playwright.sync_api import sync_playwright

    width, height = SIZE
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        tab = chromium.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        tab.goto(page.as_uri())
        content: bytes = tab.screenshot(animations="disabled")
        chromium.close()
    return content


def shown(picture: bytes) -> str | None:
    """Return the hash of the page that a picture shows; None without one."""
    for kind, content in _chunks(picture):
        keyword, _, text = content.partition(b"\0")
        if kind == b"tEXt" and keyword == KEYWORD:
            return text.decode("ascii")
    return None


def marked(picture: bytes, digest: str) -> bytes:
    """Return the picture with the hash of its page, in a text chunk before its end."""
    chunks = list(_chunks(picture))
    chunks.insert(-1, (b"tEXt", KEYWORD + b"\0" + digest.encode("ascii")))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each chunk (PNG specification, section 5)."""
    at = len(SIGNATURE)
    while at < len(picture):
        (length,) = struct.unpack_from(">I", picture, at)
        yield picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        at += length + 12


if __name__ == "__main__":
    main()
