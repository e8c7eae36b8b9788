"""Options of a question as tokens, and the condition for scoring them by single-token requests."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pipeline.stages.eval.endpoint import Completion

# vLLM takes at most so many (MAX_LOGPROB_TOKEN_IDS).
MAX_LABELS = 128

LogLikelihood = tuple[float, bool]
Tokens = array  # of token ids, 32 bits each


@dataclass(frozen=True)
class Option:
    """A continuation to be scored: the index of its value, and its tokens."""

    index: int
    question: Hashable
    context: Tokens[int]
    continuation: Tokens[int]


def is_choice(group: Sequence[Option]) -> bool:
    """Return whether one-token requests suffice: one context, options that differ in a single last token.

    It must also take fewer of them than options, else `echo` is as cheap.
    """
    first = group[0]
    shared = first.continuation[:-1]
    return (
        len(group) <= MAX_LABELS
        and len(first.context) > 0
        and len(first.continuation) > 0
        and len(shared) < max(1, len(group) - 1)
        and all(len(option.continuation) == len(first.continuation) for option in group)
        and all(option.context == first.context and option.continuation[:-1] == shared for option in group)
    )


def of_labels(labels: Sequence[int], choice: Completion) -> list[LogLikelihood] | None:
    """Return the reported value of each label at the generated token; None if the server lacks the feature."""
    (written,) = choice["logprobs"]["tokens"]
    (reported,) = choice["logprobs"]["top_logprobs"]
    names = [f"token_id:{label}" for label in labels]
    if not all(name in reported for name in names):
        return None
    # Not `name == written`: a tie with the token written is greedy, too, as it is by echo.
    return [(float(reported[name]), reported[name] >= reported[written]) for name in names]
