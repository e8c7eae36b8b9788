"""Files of conversations: found locally or on the hub, and read in the formats that people have.

Read are ShareGPT (`conversations` with `from`/`value`), OpenAI (`messages` with `role`/`content`), `prompt` and
`response`, and plain text (one user turn a line).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config import DatasetSettings
from pipeline.errors import InputError
from pipeline.models import hub_unreachable
from pipeline.workspace import Digests

Conversation = list[dict[str, str]]
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def identity_of(dataset: DatasetSettings, setting: str, digests: Digests) -> dict[str, Any]:
    """What the conversations depend on: the file's hash, or the hub's commit."""
    if dataset.path is None:
        return dataset.model_dump(exclude={"path"})
    return {"sha256": digests.of(local_file(dataset, setting))}


def local_file(dataset: DatasetSettings, setting: str) -> Path:
    """The data set's file on this machine, fetched from the hub when first asked for.

    Raises:
        InputError: when there is no such file, or the hub cannot be reached.
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


def read_conversations(path: Path) -> list[Conversation]:
    """All conversations of a file, each a list of `{"role", "content"}` with at least one user turn.

    Raises:
        InputError: when the file is empty, not JSON where its name says so, or holds no conversation.
    """
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        raise InputError(f"{path} is empty.", "Name a file with conversations.")
    if path.suffix == ".txt":
        rows: list[Any] = [{"prompt": line} for line in text.split("\n") if line.strip()]
    else:
        rows = _parse(path, text)
    found = [conversation for row in rows if (conversation := _conversation(row))]
    if not found:
        raise InputError(
            f"{path} has {len(rows)} rows and no conversation among them.",
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


def _conversation(row: Any) -> Conversation:
    if not isinstance(row, dict):
        return []
    if "conversations" in row:
        turns = [(turn.get("from"), turn.get("value")) for turn in _dicts(row["conversations"])]
    elif "messages" in row:
        turns = [(turn.get("role"), turn.get("content")) for turn in _dicts(row["messages"])]
    else:
        answer = row.get("response", row.get("completion"))
        turns = [("user", row.get("prompt")), ("assistant", answer)]
    messages = [
        {"role": ROLES[str(role)], "content": content}
        for role, content in turns
        if str(role) in ROLES and isinstance(content, str) and content.strip()
    ]
    return messages if any(message["role"] == "user" for message in messages) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
