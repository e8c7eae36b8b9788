"""The options of a question as tokens, and when requests for single tokens can tell them apart."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pipeline.stages.eval.endpoint import Choice

# vLLM takes at most so many (MAX_LOGPROB_TOKEN_IDS).
MAX_LABELS = 128

LogLikelihood = tuple[float, bool]
Tokens = array  # of token ids, 32 bits each


@dataclass(frozen=True)
class Option:
    """A continuation to be scored: where its value goes, and the tokens."""

    index: int
    question: Hashable
    context: Tokens[int]
    continuation: Tokens[int]


def is_choice(group: Sequence[Option]) -> bool:
    """Whether requests for one token answer the question: one context, options that differ in a single last token.

    Fewer of them than options, too: else nothing is won over `echo`.
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


def of_labels(labels: Sequence[int], choice: Choice) -> list[LogLikelihood] | None:
    """What the server reports of each label at the token that it wrote; None where it does not know how."""
    (written,) = choice["logprobs"]["tokens"]
    (reported,) = choice["logprobs"]["top_logprobs"]
    names = [f"token_id:{label}" for label in labels]
    if not all(name in reported for name in names):
        return None
    # Not `name == written`: a tie with the token written is greedy, too, as it is by echo.
    return [(float(reported[name]), reported[name] >= reported[written]) for name in names]
