"""Sets of conversations, local or from the hub: their identity, their rows, and the conversations in them.

Calibration, benchmark and divergence read a row by the same function, `conversation_rows.read_row`, and a file by
`conversation_files.read_rows`. Columns with other names can be mapped to the known ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.keys import Digests, Payload
from pipeline.config import CalibrationSet, DatasetSettings
from pipeline.errors import InputError, hub_unreachable
from pipeline.tasks.conversation_files import WAY_OUT, read_rows
from pipeline.tasks.conversation_rows import Conversation, read_row

KNOWN = "conversations, messages, prompt and response or completion, instruction and output, or text"


def identity_of(dataset: DatasetSettings, setting: str, digests: Digests) -> Payload:
    """Return the identity of a set: the file's hash or the hub's commit, and the column mapping."""
    columns = {"columns": dataset.columns} if isinstance(dataset, CalibrationSet) and dataset.columns else {}
    if dataset.path is None:
        return dataset.model_dump(exclude={"path", "columns", "weight"}, exclude_none=True) | columns
    return {"sha256": digests.of(local_file(dataset, setting)), **columns}


def rows_of(dataset: CalibrationSet, setting: str) -> Sequence[Any]:
    """Return the rows of a local file, of a file on the hub, or of a split on the hub (read lazily).

    Raises:
        InputError: if it cannot be fetched or read, or lacks a column that `columns` names.
    """
    if dataset.path is not None or dataset.split is None:
        path = local_file(dataset, setting)
        rows: Sequence[Any] = read_rows(path)
    else:
        rows = _split(dataset, setting)
    first = rows[0] if isinstance(rows[0], dict) else {}
    if missing := [name for name in dataset.columns.values() if name not in first]:
        raise InputError(
            f"{setting}.columns names {', '.join(missing)}: the rows of this set have {', '.join(first) or 'none'}.",
            f"Map the meanings conversations, messages, prompt, response or text to those names in {setting}.columns.",
        )
    return rows


def _split(dataset: CalibrationSet, setting: str) -> Sequence[Any]:
    import datasets

    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(
            str(dataset.hub_id), dataset.subset, split=dataset.split, revision=dataset.revision
        )
    except ValueError as error:
        # An unknown subset or split; the library's message lists the known ones.
        raise InputError(
            f"{setting}: {dataset.hub_id} has no such part: {str(error).splitlines()[0][:300]}",
            f"Set {setting}.subset and {setting}.split.",
        ) from error
    except Exception as error:
        raise hub_unreachable(setting, str(dataset.hub_id), f"{setting}.path", error) from error
    if not len(loaded):
        raise InputError(f"{setting}: {dataset.hub_id} has no rows in {dataset.split}.", "Name another split.")
    return loaded  # type: ignore[no-any-return]


def local_file(dataset: DatasetSettings, setting: str) -> Path:
    """Return the local path of a data set's file, fetched from the hub on first use.

    Raises:
        InputError: if the file does not exist, or the hub cannot be reached.
    """
    if dataset.path is not None:
        if not dataset.path.is_file():
            raise InputError(f"{setting}.path={dataset.path}: there is no such file.", WAY_OUT)
        return dataset.path
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(str(dataset.hub_id), str(dataset.hub_file), repo_type="dataset", revision=dataset.revision)
        )
    except Exception as error:
        raise hub_unreachable(setting, str(dataset.hub_id), f"{setting}.path", error) from error


def read_conversations(path: Path) -> list[Conversation]:
    """Return all conversations of a file, each a list of `{"role", "content"}` that `read_row` accepts.

    Raises:
        InputError: if the file is empty, invalid, or has no conversation.
    """
    rows = read_rows(path)
    found = [conversation for row in rows if (conversation := read_row(row).conversation)]
    if not found:
        raise InputError(
            f"{path} has {len(rows)} rows, but none is a conversation.", f"Rows are read with the fields {KNOWN}."
        )
    return found
