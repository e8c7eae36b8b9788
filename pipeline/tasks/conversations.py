"""Sets of conversations, local or from the hub, in the common formats.

Formats: ShareGPT (`conversations` with `from`/`value`), OpenAI (`messages` with `role`/`content`), `prompt` and
`response`, and plain text (one user turn per line). Columns with other names can be mapped to these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.keys import Digests, Payload
from pipeline.config import CalibrationSet, DatasetSettings
from pipeline.errors import InputError, hub_unreachable

Conversation = list[dict[str, str]]
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


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
            raise InputError(f"{setting}.path={dataset.path}: there is no such file.", "Name a JSON or JSONL file.")
        return dataset.path
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(str(dataset.hub_id), str(dataset.hub_file), repo_type="dataset", revision=dataset.revision)
        )
    except Exception as error:
        raise hub_unreachable(setting, str(dataset.hub_id), f"{setting}.path", error) from error


def read_rows(path: Path) -> list[Any]:
    """Return the rows of a JSON, JSONL or text file, unconverted.

    Raises:
        InputError: if the file is empty, or its content does not match its suffix.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}.", "Name a JSON, JSONL or .txt file.") from None
    rows: list[Any] = []
    if path.suffix == ".txt":
        rows = [{"text": line} for line in text.split("\n") if line.strip()]
    elif text.strip():
        rows = _parse(path, text)
    if not rows:
        raise InputError(f"{path} is empty.", "Name a file with conversations.")
    return rows


def read_conversations(path: Path) -> list[Conversation]:
    """Return all conversations of a file, each a list of `{"role", "content"}` with at least one user turn.

    Raises:
        InputError: if the file is empty, invalid, or has no conversation.
    """
    rows = read_rows(path)
    found = [conversation for row in rows if (conversation := conversation_of(row))]
    if not found:
        raise InputError(
            f"{path} has {len(rows)} rows, but none is a conversation.",
            "Rows are read with the fields conversations, messages, or prompt and response.",
        )
    return found


def _parse(path: Path, text: str) -> list[Any]:
    try:
        if path.suffix == ".jsonl":
            # Not splitlines(): strings may hold U+2028, which it would split at.
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}.", "Name a JSON, JSONL or .txt file.") from None
    return content if isinstance(content, list) else [content]


def conversation_of(row: Any, columns: Mapping[str, str] | None = None) -> Conversation:
    """Return a row as a conversation; empty if it has none.

    Args:
        row: a row as read from the file.
        columns: names of the row's columns by meaning.
    """
    if not isinstance(row, dict):
        return []
    if columns:
        row = {meaning: row.get(name) for meaning, name in columns.items()}
    if "conversations" in row:
        turns = [(turn.get("from"), turn.get("value")) for turn in _dicts(row["conversations"])]
    elif "messages" in row:
        turns = [(turn.get("role"), turn.get("content")) for turn in _dicts(row["messages"])]
    else:
        answer = row.get("response", row.get("completion"))
        turns = [("user", row.get("prompt", row.get("text"))), ("assistant", answer)]
    messages = [
        {"role": ROLES[str(role)], "content": content}
        for role, content in turns
        if str(role) in ROLES and isinstance(content, str) and content.strip()
    ]
    return messages if any(message["role"] == "user" for message in messages) else []


def _dicts(value: Any) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
