"""Multiple-choice items: the form that the Chinese and the English questions share.

A question, four options in random order, a closing cue; the answer is one letter, as in C-Eval and
MMLU. The two language modules supply questions; this one lays them out.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from tools.demo_model.items import Item

LETTERS = "ABCD"


@dataclass(frozen=True)
class ChoiceFormat:
    """The question format of one benchmark.

    Attributes:
        task: The lm-eval task name.
        cue: The line that asks for the letter.
        delimiter: What stands between the cue and the letter.
    """

    task: str
    cue: str
    delimiter: str


def make_item(
    style: ChoiceFormat,
    rng: random.Random,
    subject: str,
    question: str,
    right: str,
    wrong: Iterable[str],
    key: str | None = None,
) -> Item:
    """Lay out a question with its four options in random order.

    Args:
        style: The benchmark's format.
        rng: Decides the order of the options.
        subject: The subject, also the first part of the key.
        question: The question's text.
        right: The right option.
        wrong: Three wrong options.
        key: What is asked. Without it: the right option among these wrong ones, which holds out
            the combination and not the fact, as in a test on facts it has to.
    """
    distractors = list(wrong)
    options = [right, *distractors]
    if len(set(options)) != len(LETTERS):
        raise ValueError(f"{subject}: not four different options: {options}")
    rng.shuffle(options)
    letter = LETTERS[options.index(right)]
    lines = [question, *(f"{name}. {text}" for name, text in zip(LETTERS, options, strict=True))]
    return Item(
        task=style.task,
        subject=subject,
        key=key or "|".join([style.task, subject, question, right, *sorted(distractors)]),
        prompt="\n".join([*lines, style.cue]),
        answer=style.delimiter + letter,
        fields={
            "question": question,
            **dict(zip(LETTERS, options, strict=True)),
            "answer": letter,
            "right": right,
        },
    )


def other(rng: random.Random, pool: Iterable[str], right: str, count: int = 3) -> list[str]:
    """Pick `count` different entries of `pool` that are not the right one."""
    return rng.sample([entry for entry in dict.fromkeys(pool) if entry != right], count)


def near_numbers(rng: random.Random, right: int, count: int = 3) -> list[str]:
    """Pick wrong results a slip would give: off by one or two, by ten, or digits swapped."""
    slips = [right + d for d in (-20, -10, -2, -1, 1, 2, 10, 20)]
    if 10 <= right <= 99:
        slips.append(right % 10 * 10 + right // 10)
    pool = dict.fromkeys(str(slip) for slip in slips if slip >= 0 and slip != right)
    return rng.sample(list(pool), count)
