"""The item that every generator makes, with the key that determines its split.

An item is a prompt and the one right completion. Its `key` names what is asked, not how it is
written (the order of the options, the wording and the names are left out), and the split is a hash
of the key. An item can therefore never be trained on and tested on, however it is phrased.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "calibration", "test"]

# Percent of keys held out; what remains is trained on.
TEST_PERCENT = 10
CALIBRATION_PERCENT = 6


@dataclass(frozen=True)
class Item:
    """One question with its answer.

    Attributes:
        task: The lm-eval task it belongs to, such as `demo_mmlu`.
        subject: The kind of question within the task.
        key: What is asked, in canonical form; decides the split.
        prompt: The raw text a model continues.
        answer: The right continuation, with the leading space if there is one.
        fields: What else the task's data file holds (options, unit tests, ...).
    """

    task: str
    subject: str
    key: str
    prompt: str
    answer: str
    fields: dict[str, Any] = field(default_factory=dict)


Generator = Callable[[random.Random], Item]


def split_of(key: str) -> Split:
    """Return the split of a canonical key: a stable hash, the same on every machine."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    if bucket < TEST_PERCENT:
        return "test"
    if bucket < TEST_PERCENT + CALIBRATION_PERCENT:
        return "calibration"
    return "train"


def draw(generator: Generator, rng: random.Random, split: Split, tries: int = 2000) -> Item:
    """Draw items until one falls into `split`.

    Raises:
        RuntimeError: If no item of that split came up, so the subject has too few keys.
    """
    for _ in range(tries):
        item = generator(rng)
        if split_of(item.key) == split:
            return item
    raise RuntimeError(f"no item of the {split} split in {tries} draws")


def stream(
    subjects: dict[str, Generator], weights: dict[str, float], rng: random.Random, split: Split
) -> Iterator[Item]:
    """Yield items of `split` without end, the subjects in proportion to their weights."""
    names = list(subjects)
    shares = [weights.get(name, 1.0) for name in names]
    while True:
        yield draw(subjects[rng.choices(names, shares)[0]], rng, split)


def balanced(
    subjects: dict[str, Generator], rng: random.Random, split: Split, size: int, tries: int = 200
) -> list[Item]:
    """Return `size` different items, each subject as often as the next (to within one).

    Raises:
        RuntimeError: If a subject has too few items for its share.
    """
    names = list(subjects)
    items: dict[str, Item] = {}
    for number in range(size):
        subject = names[number % len(names)]
        for _ in range(tries):
            item = draw(subjects[subject], rng, split)
            # A key says what is asked; a docstring has constants besides.
            identity = item.fields.get("docstring", item.key)
            if identity not in items:
                items[identity] = item
                break
        else:
            raise RuntimeError(f"{subject}: fewer {split} items than its share of {size}")
    return list(items.values())
