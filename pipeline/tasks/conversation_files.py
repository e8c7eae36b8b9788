"""Rows of a file: JSON, JSON lines, Parquet, CSV or text; all but Parquet also compressed by gzip."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.json_files import parse_json
from pipeline.tasks.conversation_rows import COLUMNS

GZIP = ".gz"
# Of text, unpacked: some kilobytes of gzip, or of Parquet's repeated values, may stand for terabytes.
MAX_BYTES = 8 << 30
ROWS_AT_ONCE = 65_536
WAY_OUT = "Name a file of JSON, JSON lines, Parquet, CSV or text (.txt), or one of these compressed (.gz)."


def read_rows(path: Path) -> list[Any]:
    """Return the rows of a file, unconverted.

    Raises:
        InputError: if the file is empty, or its content does not match its suffix.
    """
    kind = Path(path.name.lower().removesuffix(GZIP)).suffix
    rows = _parquet(path) if kind == ".parquet" else _parsed(path, kind, _content(path))
    if not rows:
        raise InputError(f"{path} is empty.", "Name a file with conversations.")
    return rows


def _content(path: Path) -> str:
    """Return the text of a file, unpacked, without a byte order mark."""
    is_packed = path.name.lower().endswith(GZIP)
    try:
        content = bytearray()
        with gzip.open(path) if is_packed else path.open("rb") as file:
            while part := file.read(1 << 20):
                content += part
                _check_size(path, len(content))
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}.", WAY_OUT) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be unpacked: {error}.", "Fetch the file again.") from None


def _parsed(path: Path, kind: str, text: str) -> list[Any]:
    if kind == ".txt":
        return [{"text": line} for line in text.split("\n") if line.strip()]
    if kind == ".csv":
        try:
            return list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise InputError(f"{path} is not valid CSV: {error}.", WAY_OUT) from None
    if not text.strip():
        return []
    try:
        content = parse_json(text)
    except ValueError as error:
        if getattr(error, "msg", "") != "Extra data":
            raise _not_json(path, getattr(error, "lineno", 1), error) from None
        return _lines(path, text)
    if isinstance(content, dict) and kind != ".jsonl":
        return _listed(path, content)
    return content if isinstance(content, list) else [content]


def _lines(path: Path, text: str) -> list[Any]:
    """Return the values of JSON lines."""
    rows = []
    # Not splitlines(): strings may hold U+2028, which it would split at.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(parse_json(line))
            except ValueError as error:
                raise _not_json(path, number, error) from None
    return rows


def _listed(path: Path, content: dict[str, Any]) -> list[Any]:
    """Return the list that an object wraps, as `{"data": [...]}` does; the object itself if it is a row."""
    if content.keys() & set(COLUMNS):
        return [content]
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    if "data" in lists or len(lists) == 1:
        return list(lists["data"] if "data" in lists else next(iter(lists.values())))
    if lists:
        raise InputError(
            f"{path} holds several lists ({', '.join(lists)}).", "Write the one to read into a file of its own."
        )
    return [content]


def _not_json(path: Path, line: int, error: ValueError) -> InputError:
    where = f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
    return InputError(f"{path} is not valid JSON: line {line}, {where}.", WAY_OUT)


def _parquet(path: Path) -> list[Any]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    rows: list[Any] = []
    size = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                size += batch.nbytes
                _check_size(path, size)
                rows += batch.to_pylist()
    # Of values too: a text that is not UTF-8, a date that Python does not have.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path} is not a Parquet file: {reason}.", WAY_OUT) from None
    return rows


def _check_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise InputError(f"{path} holds more than {MAX_BYTES >> 30} GiB of text.", "Name a part of it.")
