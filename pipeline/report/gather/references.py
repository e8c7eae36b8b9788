"""The published tables of `conf/reference/`, checked against their schema."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.compare.published import PublishedTable
from pipeline.config import PROJECT_ROOT
from pipeline.errors import InputError

FOLDER = PROJECT_ROOT / "conf" / "reference"
_SCHEMA: TypeAdapter[PublishedTable] = TypeAdapter(PublishedTable)


@cache
def published_tables(folder: Path = FOLDER) -> tuple[PublishedTable, ...]:
    """Every table, by file name.

    Raises:
        InputError: when a file is no such table, naming it and what is wrong.
    """
    return tuple(read_table(path) for path in sorted(folder.glob("*.yaml")))


def read_table(path: Path) -> PublishedTable:
    """One table.

    Raises:
        InputError: when it is none.
    """
    try:
        table = _SCHEMA.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
        if table.name != path.stem:
            raise ValueError(f"its name is {table.name}")
    except (OSError, yaml.YAMLError, ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{path} is not a published table: {reason}", "Compare it with the other files there."
        ) from None
    return table
