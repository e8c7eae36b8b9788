"""The prompts of a load as a file that vLLM's client reads, checked before a server is started.

vLLM's client takes the first two turns of a ShareGPT conversation, whoever speaks: the prompt, sent as one text or user
message, and an answer whose length caps the reply. So a set is written anew unless these are the first question and its
answer in every row; a system turn cannot be sent. The client keeps prompts of 4 to 1,024 tokens with at most 2,048 in
all, and repeats prompts silently where there are too few, which would be a warm prefix: a set is counted first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import BenchSettings
from pipeline.errors import InputError
from pipeline.tasks.conversation_files import read_rows
from pipeline.tasks.conversation_rows import read_row

MIN_TOKENS, MAX_PROMPT, MAX_TOTAL = 4, 1024, 2048
# Tokens that a chat template may add to a prompt.
TEMPLATE_TOKENS = 64


class Tokenizer(Protocol):
    """Interface of a tokenizer: the one required method."""

    def encode(self, text: str) -> Sequence[int]:
        """Return the tokens of a text."""


def prepare(settings: BenchSettings, source: Path, folder: Path, tokenizer: Tokenizer, context: int | None) -> Path:
    """Return the set in a format that vLLM's client reads: `source` itself, else a converted copy in `folder`.

    Args:
        settings: with prompts=sharegpt.
        source: conversations in any format that `read_rows` and `read_row` read.
        folder: for the copy.
        tokenizer: the model's.
        context: tokens that prompt and reply may have together; None where it is not known.

    Raises:
        InputError: when it has too few conversations that can be sent.
    """
    rows = read_rows(source)
    found = _pairs(settings, source, rows)
    wanted, setting = _most(settings)
    longest = min(MAX_TOTAL, (context or MAX_TOTAL + TEMPLATE_TOKENS) - TEMPLATE_TOKENS)
    fitting = _fitting(found, tokenizer, settings.output_len, longest, wanted)
    if len(fitting) < wanted:
        raise InputError(
            f"{setting}={wanted}: {source.name} has {len(fitting)} different prompts that vLLM's client would send "
            f"({MIN_TOKENS} to {MAX_PROMPT} tokens of prompt, {longest} with the reply) among {len(rows)} rows.",
            "Ask for fewer prompts, or name a larger set; sending one twice would measure a warm cache."
            if longest == MAX_TOTAL
            else "Ask for fewer prompts, name shorter conversations, or raise the context (serve.max_model_len).",
        )
    if longest == MAX_TOTAL and _is_list(source) and _by_client(rows) == found:
        return source
    if longest < MAX_TOTAL:
        found = _fitting(found, tokenizer, settings.output_len, longest, len(found))
    path = folder / "prompts.json"
    path.write_text(
        json.dumps(
            [
                {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]}
                for prompt, answer in found
            ]
        )
    )
    return path


def _pairs(settings: BenchSettings, source: Path, rows: Sequence[Any]) -> list[tuple[str, str]]:
    """Return the question and answer of each row that has what is sent.

    Raises:
        InputError: where none has.
    """
    found = [pair for row in rows if (pair := _first_turns(row, settings.output_len)) is not None]
    if not found:
        without = "" if settings.output_len else ", or set bench.output_len to send prompts without answers"
        raise InputError(
            f"bench.dataset={source}: none of {len(rows)} rows is a conversation with a question and an answer.",
            f"Name a ShareGPT file{without}.",
        )
    return found


def _most(settings: BenchSettings) -> tuple[int, str]:
    """Return the largest number of prompts in one load, and the setting that determines it."""
    asked = {"bench.warmup_prompts": settings.warmup_prompts or 0}
    if settings.ladder is None:
        asked["bench.num_prompts"] = settings.num_prompts
    else:
        # A fast server is sent more, and some twice, which a guard reports.
        asked["bench.ladder.min_prompts"] = settings.ladder.min_prompts
        asked["bench.ladder.concurrency"] = settings.ladder.concurrency[-1]
    if settings.slo.limits and settings.slo.probes:
        asked["bench.slo.prompts"] = settings.slo.prompts
    setting = max(asked, key=lambda name: asked[name])
    return asked[setting], setting


# Bytes of a file whose rows are read before any work.
SMALL = 32 * 2**20


def check_conversations(settings: BenchSettings) -> None:
    """Refuse a small local file with fewer conversations than are sent, before any work; a large one is read later.

    Raises:
        InputError: naming the setting and the rows.
    """
    path = settings.dataset.path
    if settings.prompts == "random" or path is None or not path.is_file() or path.stat().st_size > SMALL:
        return
    wanted, setting = _most(settings)
    rows = read_rows(path)
    if (found := len(_pairs(settings, path, rows))) < wanted:
        raise InputError(
            f"{setting}={wanted}: {path} has {found} conversations that can be sent, in {len(rows)} rows.",
            "Ask for fewer prompts, or name a larger set (bench.dataset).",
        )


def check_lengths(settings: BenchSettings, context: int | None) -> None:
    """Refuse random prompts that the model's context cannot hold.

    Raises:
        InputError: naming the lengths and the context.
    """
    assert settings.input_len is not None and settings.output_len is not None
    template = TEMPLATE_TOKENS if settings.endpoint == "openai-chat" else 0
    if context is not None and settings.input_len + settings.output_len + template > context:
        raise InputError(
            f"bench.input_len={settings.input_len} and bench.output_len={settings.output_len} do not fit into a "
            f"context of {context} tokens{' together with the chat template' if template else ''}.",
            "Shorten one of them, or raise serve.max_model_len if the model can hold more.",
        )


def _first_turns(row: Any, output_len: int | None) -> tuple[str, str] | None:
    """Return a conversation's first question and answer; the answer may be missing if lengths are fixed."""
    turns = [turn["content"] for turn in read_row(row).conversation if turn["role"] != "system"]
    if len(turns) > 1:
        return turns[0], turns[1]
    return (turns[0], "") if turns and output_len is not None else None


def _fitting(
    pairs: Iterable[tuple[str, str]], tokenizer: Tokenizer, output_len: int | None, longest: int, enough: int
) -> list[tuple[str, str]]:
    """Return the pairs that vLLM's client keeps and the context holds, each prompt once, at most `enough`."""
    kept: list[tuple[str, str]] = []
    seen: set[str] = set()
    for prompt, answer in pairs:
        if len(kept) == enough:
            break
        if prompt in seen:
            continue
        seen.add(prompt)
        asked = len(tokenizer.encode(prompt))
        reply = output_len if output_len is not None else len(tokenizer.encode(answer))
        long_enough = asked >= MIN_TOKENS and (output_len is not None or reply >= MIN_TOKENS)
        if long_enough and asked <= MAX_PROMPT and asked + reply <= longest:
            kept.append((prompt, answer))
    return kept


def _is_list(source: Path) -> bool:
    """Return whether a file is, byte for byte, the JSON list that vLLM's client expects."""
    with source.open("rb") as file:
        return source.suffix == ".json" and file.read(1) == b"["


def _by_client(rows: Sequence[Any]) -> list[tuple[Any, Any]] | None:
    """Return the prompts and answers that vLLM's client reads in the rows; None if it fails on one."""
    try:
        conversations = [row["conversations"] for row in rows if "conversations" in row]
        return [(turns[0]["value"], turns[1]["value"]) for turns in conversations if len(turns) >= 2]
    except (TypeError, KeyError):
        return None
