"""Calibration inputs: conversations drawn from one set or a mix, as the token sequences of a deployment."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.config import CalibrationSet, CalibrationSettings
from pipeline.errors import InputError
from pipeline.models.architecture import text_config
from pipeline.tasks.conversations import Conversation, conversation_of, rows_of

if TYPE_CHECKING:
    from pipeline.job import Job


@dataclass
class Drawn:
    """Conversations drawn from one set, and counts of the rows skipped."""

    setting: str
    read: int = 0
    sequences: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    no_conversation: int = 0
    duplicates: int = 0
    too_short: int = 0
    too_long: int = 0
    cut: int = 0

    @property
    def passed_over(self) -> str:
        """Return the reasons why rows were skipped, for a message."""
        named = ("no_conversation", "duplicates", "too_short", "too_long")
        return ", ".join(f"{getattr(self, name)} {name.replace('_', ' ')}" for name in named if getattr(self, name))


def draw(job: Job, tokenizer: Any) -> list[Drawn]:
    """Draw `num_samples` different conversations by the seed, divided among the sets by weight.

    Raises:
        InputError: when there are fewer, a set cannot be read, the template fails, or one exceeds the model's context.
    """
    settings = job.settings.calibration
    seen: set[str] = set()
    found = []
    for (name, each), wanted in zip(settings.sets.items(), shares(settings), strict=True):
        setting = f"calibration.{name}"
        drawn = Drawn(setting)
        for _ in _take(job, tokenizer, each, drawn, seen):
            job.progress.detail(f"{len(drawn.sequences)}/{wanted} conversations of {setting}")
            if len(drawn.sequences) == wanted:
                break
        if len(drawn.sequences) < wanted:
            others = f" ({drawn.passed_over})" if drawn.passed_over else ""
            raise InputError(
                f"calibration.num_samples={settings.num_samples}: {wanted} are wanted of {setting}, which has "
                f"{len(drawn.sequences)} different conversations in {drawn.read} rows{others}.",
                f"Set calibration.num_samples={_most(settings, name, len(drawn.sequences))} or fewer, or name a larger "
                "set.",
            )
        found.append(drawn)
    return found


def shares(settings: CalibrationSettings) -> list[int]:
    """Return the samples of each set by weight, rounded by the largest remainders."""
    weights = [each.weight for each in settings.sets.values()]
    exact = [settings.num_samples * weight / sum(weights) for weight in weights]
    taken = [int(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda index: taken[index] - exact[index])
    for index in order[: settings.num_samples - sum(taken)]:
        taken[index] += 1
    return taken


def _most(settings: CalibrationSettings, name: str, available: int) -> int:
    """Return the largest number of samples that a set's conversations suffice for."""
    weights = {key: each.weight for key, each in settings.sets.items()}
    return max(1, int(available * sum(weights.values()) / weights[name]))


def _take(job: Job, tokenizer: Any, dataset: CalibrationSet, drawn: Drawn, seen: set[str]) -> Iterator[None]:
    """Add conversation after conversation to `drawn`, in the order of the seed."""
    settings = job.settings.calibration
    rows = rows_of(dataset, drawn.setting)
    drawn.read = len(rows)
    order = list(range(len(rows)))
    random.Random(settings.seed).shuffle(order)
    for index in order:
        conversation = conversation_of(rows[index], dataset.columns)
        if not conversation:
            drawn.no_conversation += 1
            continue
        text = "\n".join(turn["content"] for turn in conversation)
        # Differences of case and white space make no other conversation.
        mark = " ".join(text.lower().split())
        if mark in seen:
            drawn.duplicates += 1
            continue
        seen.add(mark)
        sequence = encode(tokenizer, conversation, settings)
        if len(sequence) < settings.min_seq_length:
            drawn.too_short += 1
            continue
        if len(sequence) > settings.max_seq_length:
            if settings.drop_long:
                drawn.too_long += 1
                continue
            drawn.cut += 1
            sequence = sequence[: settings.max_seq_length]
        _check_context(job, len(sequence), index)
        drawn.sequences.append(sequence)
        drawn.texts.append(text)
        yield


def _check_context(job: Job, length: int, row: int) -> None:
    config = text_config(job.model.config)
    context = config.get("max_position_embeddings")
    if context and length > context:
        raise InputError(
            f"calibration.max_seq_length={job.settings.calibration.max_seq_length}: row {row} has {length:,} tokens, "
            f"the model's context holds {context:,}.",
            f"Set calibration.max_seq_length={context} or fewer (longer ones are cut), or calibration.drop_long=true.",
        )


def encode(tokenizer: Any, conversation: Conversation, settings: CalibrationSettings) -> list[int]:
    """Return the token ids of a conversation as a deployment gets it, whole and without padding.

    Raises:
        InputError: when the chat template fails on it.
    """
    if settings.apply_chat_template:
        text = render(tokenizer, conversation, settings)
    else:
        text = "\n".join(turn["content"] for turn in conversation)
    # A tokenizer's files may ask for padding or cutting.
    return list(tokenizer(text, add_special_tokens=False, padding=False, truncation=False)["input_ids"])


def render(tokenizer: Any, conversation: Conversation, settings: CalibrationSettings) -> str:
    """Return the text of a conversation under the chat template.

    Raises:
        InputError: when there is no template, or it fails.
    """
    try:
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, **template_arguments(settings)))
    except Exception as error:
        turns = ", ".join(turn["role"] for turn in conversation)
        raise InputError(
            f"The model's chat template fails on a conversation of the turns {turns}: {str(error).splitlines()[0]}.",
            "Give the tokenizer a chat_template.jinja that accepts it, name other conversations, or set "
            "calibration.apply_chat_template=false for plain text.",
        ) from None


def template_arguments(settings: CalibrationSettings) -> dict[str, bool]:
    """Return the chat template's arguments besides the conversation."""
    return {} if settings.enable_thinking is None else {"enable_thinking": settings.enable_thinking}


def lengths_of(drawn: Sequence[Drawn]) -> list[int]:
    """Return the number of tokens of each sequence."""
    return [len(sequence) for each in drawn for sequence in each.sequences]
