"""Calibration inputs: conversations drawn from one set or a mix, as the token sequences of a deployment."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.config import CalibrationSet, CalibrationSettings
from pipeline.errors import InputError
from pipeline.models.architecture import longest_context
from pipeline.tasks.chat_templates import ChatTemplate, TemplateRefusal
from pipeline.tasks.conversation_rows import Conversation, read_row
from pipeline.tasks.conversations import rows_of

if TYPE_CHECKING:
    from pipeline.job import Job

# What `Drawn.counts` has besides the reader's: rows that were passed over, and changes to those that were taken.
DUPLICATES, TOO_SHORT, TOO_LONG, REFUSED = "duplicates", "too_short", "too_long", "refused_by_template"
CUT, FOLDED = "cut", "system_turns_folded"
PLAIN_TEXT = "calibration.apply_chat_template=false for plain text"


@dataclass
class Drawn:
    """Conversations drawn from one set, and the number of rows that were passed over or changed, by reason."""

    setting: str
    read: int = 0
    sequences: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    refusal: str = ""

    @property
    def passed_over(self) -> str:
        """Return the counts, and the last error of the template, for a message."""
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in (+self.counts).items())
        return f" ({counts}{f'; {self.refusal}' if self.refusal else ''})" if counts else ""


def draw(job: Job, tokenizer: Any) -> list[Drawn]:
    """Draw `num_samples` different conversations by the seed, divided among the sets by weight.

    Raises:
        InputError: when there are fewer, a set cannot be read, the tokenizer has no template, or one exceeds the
            model's context.
    """
    settings = job.settings.calibration
    template = ChatTemplate(tokenizer, template_arguments(settings))
    seen: set[str] = set()
    found = []
    for (name, each), wanted in zip(settings.sets.items(), shares(settings), strict=True):
        setting = f"calibration.{name}"
        drawn = Drawn(setting)
        for _ in islice(_take(job, template, each, drawn, seen), wanted):
            job.progress.detail(f"{len(drawn.sequences)}/{wanted} conversations of {setting}")
        if len(drawn.sequences) < wanted:
            raise _too_few(settings, name, drawn, wanted)
        found.append(drawn)
    return found


def interleaved(drawn: Sequence[Drawn], seed: int) -> list[list[int]]:
    """Return the sequences of all sets, so that any number from the front has its share of each set.

    Within a set the order stays; the one set that there mostly is stays as it is.
    """
    dice = random.Random(seed)
    placed = [
        ((place + dice.random()) / len(each.sequences), sequence)
        for each in drawn
        for place, sequence in enumerate(each.sequences)
    ]
    return [sequence for _, sequence in sorted(placed, key=lambda pair: pair[0])]


def shares(settings: CalibrationSettings) -> list[int]:
    """Return the samples of each set by weight, rounded by the largest remainders."""
    weights = [each.weight for each in settings.sets.values()]
    exact = [settings.num_samples * weight / sum(weights) for weight in weights]
    taken = [int(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda index: taken[index] - exact[index])
    for index in order[: settings.num_samples - sum(taken)]:
        taken[index] += 1
    return taken


def _too_few(settings: CalibrationSettings, name: str, drawn: Drawn, wanted: int) -> InputError:
    found = len(drawn.sequences)
    fewer = f"Set calibration.num_samples={_most(settings, name, found)} or fewer, or name" if found else "Name"
    ways = [f"{fewer} a larger set."]
    if drawn.refusal:
        ways.append(f"What the template refuses needs a chat_template.jinja that accepts it, or {PLAIN_TEXT}.")
    return InputError(
        f"calibration.num_samples={settings.num_samples}: {wanted} are wanted of {drawn.setting}, which has {found} "
        f"different conversations in {drawn.read} rows{drawn.passed_over}.",
        " ".join(ways),
    )


def _most(settings: CalibrationSettings, name: str, available: int) -> int:
    """Return the largest number of samples that a set's conversations suffice for."""
    weights = {key: each.weight for key, each in settings.sets.items()}
    return max(1, int(available * sum(weights.values()) / weights[name]))


def _take(job: Job, template: ChatTemplate, dataset: CalibrationSet, drawn: Drawn, seen: set[str]) -> Iterator[None]:
    """Add conversation after conversation to `drawn`, in the order of the seed."""
    settings = job.settings.calibration
    rows = rows_of(dataset, drawn.setting)
    drawn.read = len(rows)
    order = list(range(len(rows)))
    random.Random(settings.seed).shuffle(order)
    for index in order:
        reading = read_row(rows[index], dataset.columns)
        drawn.counts.update(sorted(reading.repairs))
        if reading.left_out:
            drawn.counts[reading.left_out] += 1
            continue
        text = plain_text(reading.conversation)
        # Differences of case and white space make no other conversation.
        mark = " ".join(text.lower().split())
        if mark in seen:
            drawn.counts[DUPLICATES] += 1
            continue
        seen.add(mark)
        sequence = _encoded(template, reading.conversation, settings, drawn)
        if sequence is None:
            continue
        _check_context(job, len(sequence), index)
        drawn.sequences.append(sequence)
        drawn.texts.append(text)
        yield


def _encoded(
    template: ChatTemplate, conversation: Conversation, settings: CalibrationSettings, drawn: Drawn
) -> list[int] | None:
    """Return a conversation's tokens, cut to the longest that is taken; None, and a count, if it is passed over."""
    fitted = template.fitted(conversation) if settings.apply_chat_template else conversation
    try:
        sequence = encode(template, fitted, settings)
    except TemplateRefusal as error:
        if not template.source:
            raise InputError(
                f"calibration.apply_chat_template=true: {error.problem}",
                f"Give the tokenizer a chat_template.jinja, or set {PLAIN_TEXT}.",
            ) from None
        drawn.counts[REFUSED] += 1
        drawn.refusal = error.problem.removesuffix(".")
        return None
    too_long = len(sequence) > settings.max_seq_length
    if len(sequence) < settings.min_seq_length or (too_long and settings.drop_long):
        drawn.counts[TOO_LONG if too_long else TOO_SHORT] += 1
        return None
    drawn.counts[FOLDED] += fitted is not conversation
    drawn.counts[CUT] += too_long
    return sequence[: settings.max_seq_length]


def _check_context(job: Job, length: int, row: int) -> None:
    context = longest_context(job.model.config)
    if context is not None and length > context:
        raise InputError(
            f"calibration.max_seq_length={job.settings.calibration.max_seq_length}: row {row} has {length:,} tokens, "
            f"the model's context holds {context:,}.",
            f"Set calibration.max_seq_length={context} or fewer (longer ones are cut), or calibration.drop_long=true.",
        )


def encode(template: ChatTemplate, conversation: Conversation, settings: CalibrationSettings) -> list[int]:
    """Return the token ids of a conversation as a deployment gets it, whole and without padding.

    Raises:
        TemplateRefusal: when the chat template fails on it.
    """
    is_chat = settings.apply_chat_template
    text = template.render(conversation) if is_chat else plain_text(conversation)
    # A template writes BOS itself. A tokenizer's files may ask for padding or cutting.
    encoded = template.tokenizer(text, add_special_tokens=not is_chat, padding=False, truncation=False)
    return list(encoded["input_ids"])


def plain_text(conversation: Conversation) -> str:
    """Return the turns of a conversation as text, without a template."""
    return "\n".join(turn["content"] for turn in conversation)


def template_arguments(settings: CalibrationSettings) -> dict[str, bool]:
    """Return the chat template's arguments besides the conversation."""
    return {} if settings.enable_thinking is None else {"enable_thinking": settings.enable_thinking}


def lengths_of(drawn: Sequence[Drawn]) -> list[int]:
    """Return the number of tokens of each sequence."""
    return [len(sequence) for each in drawn for sequence in each.sequences]
