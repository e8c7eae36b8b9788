"""The published tables of `conf/reference/` and their protocols, validated against the schema."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.compare.published.tables import AccuracyTable, Published, PublishedProtocol, PublishedTable, SpeedTable
from pipeline.config import RESOURCES
from pipeline.errors import InputError

FOLDER = RESOURCES / "conf" / "reference"
_SCHEMA: TypeAdapter[SpeedTable | AccuracyTable | PublishedProtocol] = TypeAdapter(Published)


def published_tables() -> tuple[PublishedTable, ...]:
    """Return every table, sorted by file name."""
    return tuple(each for each in _everything() if not isinstance(each, PublishedProtocol))


def protocols() -> tuple[tuple[PublishedProtocol, tuple[SpeedTable, ...]], ...]:
    """Return every protocol with its tables."""
    tables = {table.name: table for table in _everything() if isinstance(table, SpeedTable)}
    return tuple(
        (p, tuple(tables[name] for name in p.tables)) for p in _everything() if isinstance(p, PublishedProtocol)
    )


@cache
def _everything() -> tuple[SpeedTable | AccuracyTable | PublishedProtocol, ...]:
    return tuple(read(path) for path in sorted(FOLDER.glob("*.yaml")))


def read(path: Path) -> SpeedTable | AccuracyTable | PublishedProtocol:
    """Read one file.

    Raises:
        InputError: if it is neither a published table nor a protocol, with the reason.
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
