"""The published tables of `conf/reference/` and their protocols, validated against the schema."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.compare.published.reproduction import comparable
from pipeline.compare.published.tables import (
    BASELINE,
    AccuracyTable,
    Published,
    PublishedProtocol,
    PublishedTable,
    SpeedTable,
)
from pipeline.compare.roofline.device import Footprint
from pipeline.config import RESOURCES, Variant
from pipeline.errors import InputError
from pipeline.results.base import Missing
from pipeline.stages.report.collect.footprints import of_config

FOLDER = RESOURCES / "conf" / "reference"
_SCHEMA: TypeAdapter[SpeedTable | AccuracyTable | PublishedProtocol] = TypeAdapter(Published)


def published_tables() -> tuple[PublishedTable, ...]:
    """Return every table, sorted by file name."""
    return tuple(each for each in _everything() if not isinstance(each, PublishedProtocol))


def comparable_tables(
    footprints: Iterable[Footprint | Missing], gpu: str | None, *, is_random: bool, hub_id: str | None = None
) -> tuple[PublishedTable, ...]:
    """Return the tables with which results of a model can be compared: those of a model of its shape.

    Answers depend on the weights too: accuracies of what the hub has under another name are no reproduction.

    Args:
        footprints: the model's variants, of which any tells the shape.
        gpu: the catalogue's name of the measured machine, None if it is not in the catalogue.
        is_random: whether the model has random weights.
        hub_id: the model's repository; None for a folder, whose weights may be anyone's.
    """
    shape = next((_shape(each) for each in footprints if isinstance(each, Footprint)), None)
    models = {
        protocol.model: protocol.hub_id
        for protocol, _ in protocols()
        if isinstance(theirs := of_config(protocol.config, Variant.parse(BASELINE)), Footprint)
        and _shape(theirs) == shape
    }
    return tuple(
        table
        for table in published_tables()
        if table.model in models
        and comparable(table, gpu, is_random=is_random)
        and (isinstance(table, SpeedTable) or hub_id in (None, models[table.model]))
    )


def _shape(footprint: Footprint) -> tuple[float, ...]:
    """Return the widths and the products of a model, which its variants share."""
    widths = (footprint.hidden, footprint.intermediate, footprint.vocabulary)
    products = footprint.products + footprint.bf16_products + sum(footprint.other_products.values())
    return (*widths, products, footprint.head_products, footprint.attention_products)


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
