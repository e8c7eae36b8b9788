"""The prompts of a load as a file that vLLM's client reads, checked before a server is started.

vLLM's client takes the first two turns of a ShareGPT conversation: the prompt, and an answer whose length caps the
reply. It keeps prompts of 4 to 1,024 tokens with at most 2,048 in all, and repeats prompts silently where there are
too few, which would be a warm prefix. So a set is counted first, and one in another format is converted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import BenchSettings
from pipeline.errors import InputError
from pipeline.tasks.conversations import conversation_of, read_rows

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
        source: conversations in any format that `datasets` reads.
        folder: for the copy.
        tokenizer: the model's.
        context: tokens that prompt and reply may have together; None where it is not known.

    Raises:
        InputError: when it has too few conversations that can be sent.
    """
    rows = read_rows(source)
    pairs = [_first_turns(row, settings.output_len) for row in rows]
    found = [pair for pair in pairs if pair is not None]
    wanted, setting = _most(settings)
    if not found:
        without = "" if settings.output_len else ", or set bench.output_len to send prompts without answers"
        raise InputError(
            f"bench.dataset={source}: none of {len(pairs)} rows is a conversation with a question and an answer.",
            f"Name a ShareGPT file{without}.",
        )
    longest = min(MAX_TOTAL, (context or MAX_TOTAL + TEMPLATE_TOKENS) - TEMPLATE_TOKENS)
    fitting = _fitting(found, tokenizer, settings.output_len, longest, wanted)
    if len(fitting) < wanted:
        raise InputError(
            f"{setting}={wanted}: {source.name} has {len(fitting)} conversations that vLLM's client would send "
            f"({MIN_TOKENS} to {MAX_PROMPT} tokens of prompt, {longest} with the reply) among {len(pairs)} rows.",
            "Ask for fewer prompts, or name a larger set; sending one twice would measure a warm cache."
            if longest == MAX_TOTAL
            else "Ask for fewer prompts, name shorter conversations, or raise the context (serve.max_model_len).",
        )
    answered = settings.output_len is None or all(pair is not None and pair[1] for pair in pairs)
    if longest == MAX_TOTAL and answered and _is_sharegpt(source, rows):
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
    conversation = [turn for turn in conversation_of(row) if turn["role"] != "system"]
    if not conversation or conversation[0]["role"] != "user":
        return None
    if len(conversation) > 1 and conversation[1]["role"] == "assistant":
        return conversation[0]["content"], conversation[1]["content"]
    return (conversation[0]["content"], "") if output_len is not None else None


def _fitting(
    pairs: Iterable[tuple[str, str]], tokenizer: Tokenizer, output_len: int | None, longest: int, enough: int
) -> list[tuple[str, str]]:
    """Return the pairs that vLLM's client keeps and the context holds, at most `enough`."""
    kept: list[tuple[str, str]] = []
    for prompt, answer in pairs:
        if len(kept) == enough:
            break
        asked = len(tokenizer.encode(prompt))
        reply = output_len if output_len is not None else len(tokenizer.encode(answer))
        long_enough = asked >= MIN_TOKENS and (output_len is not None or reply >= MIN_TOKENS)
        if long_enough and asked <= MAX_PROMPT and asked + reply <= longest:
            kept.append((prompt, answer))
    return kept


def _is_sharegpt(source: Path, rows: Sequence[Any]) -> bool:
    """Return whether vLLM's client can read the file as it is."""
    return source.suffix == ".json" and all(
        isinstance(row, dict) and isinstance(row.get("conversations"), list) for row in rows
    )
