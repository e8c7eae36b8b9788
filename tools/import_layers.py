"""The picture of `docs/architecture.md`: the layers of the import contracts, each module with its docstring's subject.

`make docs` writes it between `<!-- layers -->` and `<!-- end -->`; import-linter holds the code to the same contracts.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from tools.derived import rewrite

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = re.compile(r"(<!-- layers -->\n).*?(<!-- end -->)", re.DOTALL)


def layers() -> list[list[str]]:
    """Return the layers from the top; modules of one layer do not import each other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (each for each in project["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    return [layer.split(" | ") for layer in contract["layers"]]


def subject(module: str) -> str:
    """Return the first sentence of a module's docstring, up to its first colon, semicolon or full stop."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[^.])[;.](?:\s|$)", first)[0]


def picture() -> str:
    """Return the layers as a block of text, an arrow between them."""
    rows = [[(module.removeprefix("pipeline."), subject(module)) for module in layer] for layer in layers()]
    width = max(len(name) for row in rows for name, _ in row) + 2
    drawn = ["\n".join(f"{name:<{width}}{text}" for name, text in row) for row in rows]
    return "```\n" + f"\n{'  |':<{width}}\n".replace(" " * (width - 3), "").join(drawn) + "\n```\n"


def page(text: str) -> str:
    """Return the page with the picture as the contracts have it."""
    return PICTURE.sub(lambda found: found[1] + picture() + found[2], text)


def main() -> None:
    """Rewrite the page; print whether it changed."""
    rewrite(PAGE, page)


if __name__ == "__main__":
    main()
