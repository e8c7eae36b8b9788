"""Word problems with a worked solution (`demo_gsm8k`), the small image of GSM8K.

A template tells a story with numbers and gives the steps of its solution; the last line of a
solution is `#### N`. The numbers of a story are its key: the same story with the same numbers is
never in two splits, whoever it is told about.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tools.demo_model.items import Generator, Item
from tools.demo_model.lexicon import english as lex

TASK = "demo_gsm8k"


@dataclass(frozen=True)
class Story:
    """One problem: its numbers, its text, the steps of the solution and the result."""

    numbers: tuple[int, ...]
    text: str
    steps: tuple[str, ...]
    result: int


@dataclass(frozen=True)
class Cast:
    """The persons and objects of a story."""

    name: str
    friend: str
    he: str
    his: str
    thing: str
    container: str
    good: str

    @classmethod
    def draw(cls, rng: random.Random) -> "Cast":
        """Pick two people, something to count, something to carry it in, something to buy."""
        name, friend = rng.sample(list(lex.NAMES), 2)
        he, his = lex.NAMES[name]
        thing, good = rng.choice(lex.THINGS), rng.choice(lex.GOODS)
        return cls(name, friend, he, his, thing, rng.choice(lex.CONTAINERS), good)


def buy(rng: random.Random, c: Cast) -> Story:
    """Some to start with, then several containers more."""
    a, k, m = rng.randint(5, 60), rng.randint(2, 9), rng.randint(3, 12)
    new, total = k * m, a + k * m
    text = (
        f"{c.name} has {a} {c.thing}. {c.he} buys {k} {c.container} with {m} {c.thing} each. "
        f"How many {c.thing} does {c.name} have now?"
    )
    steps = (f"{c.he} buys {k} * {m} = {new} {c.thing}.", f"{c.he} has {a} + {new} = {total}.")
    return Story((a, k, m), text, steps, total)


def spend(rng: random.Random, c: Cast) -> Story:
    """Money left after buying several things at one price."""
    k, p = rng.randint(2, 9), rng.randint(3, 12)
    cost = k * p
    a = cost + rng.randint(3, 60)
    text = f"{c.name} has ${a}. {c.he} buys {k} {c.good} for ${p} each. How many dollars are left?"
    steps = (f"The {c.good} cost {k} * {p} = {cost}.", f"There are {a} - {cost} = {a - cost} left.")
    return Story((a, k, p), text, steps, a - cost)


def give(rng: random.Random, c: Cast) -> Story:
    """Give some away twice."""
    b, d = rng.randint(3, 30), rng.randint(3, 30)
    a = b + d + rng.randint(3, 60)
    text = (
        f"{c.name} has {a} {c.thing}. {c.he} gives {b} to {c.friend} and loses {d}. "
        f"How many {c.thing} does {c.name} have left?"
    )
    steps = (
        f"{c.name} has {a} - {b} = {a - b} after giving.",
        f"Then {a - b} - {d} = {a - b - d} are left.",
    )
    return Story((a, b, d), text, steps, a - b - d)


def twice(rng: random.Random, c: Cast) -> Story:
    """A number on one day, a multiple of it on the next, some more on the third: three steps."""
    a, k, b = rng.randint(4, 30), rng.choice([2, 3]), rng.randint(3, 30)
    word = {2: "twice", 3: "three times"}[k]
    text = (
        f"{c.name} reads {a} pages on Monday, {word} as many on Tuesday and {b} on Wednesday. "
        f"How many pages does {c.name} read?"
    )
    steps = (
        f"On Tuesday {a} * {k} = {a * k} pages.",
        f"In two days {a} + {a * k} = {a + a * k}.",
        f"In all {a + a * k} + {b} = {a + a * k + b}.",
    )
    return Story((a, k, b), text, steps, a + a * k + b)


def share(rng: random.Random, c: Cast) -> Story:
    """Share equally, then use some of one share."""
    k, each = rng.randint(2, 10), rng.randint(3, 12)
    total, eaten = k * each, rng.randint(1, each - 1)
    text = (
        f"{c.name} shares {total} {c.thing} equally among {k} friends. One friend gives "
        f"{eaten} away. How many {c.thing} does this friend have left?"
    )
    steps = (
        f"Each friend gets {total} / {k} = {each}.",
        f"Then {each} - {eaten} = {each - eaten} are left.",
    )
    return Story((total, k, eaten), text, steps, each - eaten)


def more_than(rng: random.Random, c: Cast) -> Story:
    """One has more than the other; both together."""
    a, b = rng.randint(8, 60), rng.randint(3, 30)
    text = (
        f"{c.name} has {a} {c.thing}. {c.friend} has {b} more {c.thing} than {c.name}. "
        f"How many {c.thing} do they have together?"
    )
    steps = (f"{c.friend} has {a} + {b} = {a + b}.", f"Together {a} + {a + b} = {a + a + b}.")
    return Story((a, b), text, steps, a + a + b)


def fewer_than(rng: random.Random, c: Cast) -> Story:
    """One has fewer than the other; both together."""
    b = rng.randint(3, 30)
    a = b + rng.randint(5, 50)
    text = (
        f"{c.name} has {a} {c.thing}. {c.friend} has {b} fewer {c.thing} than {c.name}. "
        f"How many {c.thing} do they have together?"
    )
    steps = (f"{c.friend} has {a} - {b} = {a - b}.", f"Together {a} + {a - b} = {a + a - b}.")
    return Story((a, b), text, steps, a + a - b)


def broken(rng: random.Random, c: Cast) -> Story:
    """Several containers, some of the contents broken."""
    k, m = rng.randint(3, 9), rng.randint(4, 12)
    total = k * m
    n = rng.randint(2, total - 2)
    text = (
        f"A shop gets {k} {c.container} with {m} {c.thing} each. {n} of the {c.thing} are "
        f"broken. How many {c.thing} are good?"
    )
    steps = (f"The shop gets {k} * {m} = {total} {c.thing}.", f"Good are {total} - {n} = {total - n}.")
    return Story((k, m, n), text, steps, total - n)


def travel(rng: random.Random, c: Cast) -> Story:
    """A speed for some hours, then a distance more."""
    v, t, d = rng.randint(3, 12) * 5, rng.randint(2, 6), rng.randint(5, 60)
    far = v * t
    text = f"{c.name} drives {v} km an hour for {t} hours and then {d} km more. How many km does {c.name} drive?"
    steps = (f"{c.he} drives {v} * {t} = {far} km.", f"In all {far} + {d} = {far + d} km.")
    return Story((v, t, d), text, steps, far + d)


def two_prices(rng: random.Random, c: Cast) -> Story:
    """Two kinds of goods at two prices: three steps."""
    m, n = rng.randint(2, 9), rng.randint(2, 9)
    p, q = rng.randint(2, 9), rng.randint(2, 9)
    second = rng.choice([good for good in lex.GOODS if good != c.good])
    text = (
        f"{c.name} buys {m} {c.good} for ${p} each and {n} {second} for ${q} each. How many dollars does {c.name} pay?"
    )
    steps = (
        f"The {c.good} cost {m} * {p} = {m * p}.",
        f"The {second} cost {n} * {q} = {n * q}.",
        f"In all {m * p} + {n * q} = {m * p + n * q}.",
    )
    return Story((m, p, n, q), text, steps, m * p + n * q)


def saving(rng: random.Random, c: Cast) -> Story:
    """Save for some weeks, then spend."""
    s, w = rng.randint(3, 12), rng.randint(3, 9)
    total = s * w
    b = rng.randint(2, total - 2)
    text = (
        f"{c.name} saves ${s} a week for {w} weeks and then spends ${b} on a present for "
        f"{c.friend}. How many dollars are left?"
    )
    steps = (f"{c.he} saves {s} * {w} = {total}.", f"There are {total} - {b} = {total - b} left.")
    return Story((s, w, b), text, steps, total - b)


def bus(rng: random.Random, c: Cast) -> Story:
    """People get off and on."""
    off, on = rng.randint(3, 30), rng.randint(3, 30)
    a = off + rng.randint(3, 50)
    text = f"There are {a} people on a bus. {off} get off and {on} get on. How many people are on the bus now?"
    steps = (f"After {off} get off, {a} - {off} = {a - off} stay.", f"Now {a - off} + {on} = {a - off + on}.")
    return Story((a, off, on), text, steps, a - off + on)


def ages(rng: random.Random, c: Cast) -> Story:
    """An age from another one, some years later."""
    a, b, years = rng.randint(5, 50), rng.randint(2, 25), rng.randint(2, 20)
    text = f"{c.name} is {a} years old. {c.friend} is {b} years older. How old will {c.friend} be in {years} years?"
    steps = (f"{c.friend} is {a} + {b} = {a + b} now.", f"In {years} years {a + b} + {years} = {a + b + years}.")
    return Story((a, b, years), text, steps, a + b + years)


def rows(rng: random.Random, c: Cast) -> Story:
    """Rows of a field, some picked in the morning and some in the evening: three steps."""
    r, m = rng.randint(3, 9), rng.randint(4, 12)
    total = r * m
    morning = rng.randint(2, total // 2)
    evening = rng.randint(1, total - morning - 1)
    text = (
        f"A field has {r} rows of {m} {c.thing}. {c.name} takes {morning} in the morning and "
        f"{evening} in the evening. How many {c.thing} are left?"
    )
    rest = total - morning
    steps = (
        f"The field has {r} * {m} = {total} {c.thing}.",
        f"After the morning {total} - {morning} = {rest}.",
        f"After the evening {rest} - {evening} = {rest - evening}.",
    )
    return Story((r, m, morning, evening), text, steps, rest - evening)


def half(rng: random.Random, c: Cast) -> Story:
    """Give half away, find some more."""
    h, b = rng.randint(4, 40), rng.randint(3, 40)
    text = (
        f"{c.name} has {2 * h} {c.thing}. {c.he} gives half of them to {c.friend} and finds {b} "
        f"more. How many {c.thing} does {c.name} have now?"
    )
    steps = (f"{c.he} keeps {2 * h} / 2 = {h}.", f"{c.he} has {h} + {b} = {h + b}.")
    return Story((2 * h, b), text, steps, h + b)


def pack_and_trade(rng: random.Random, c: Cast) -> Story:
    """Containers, a gift and a find: three steps."""
    k, m = rng.randint(3, 9), rng.randint(4, 12)
    total = k * m
    b, d = rng.randint(2, total - 1), rng.randint(3, 40)
    text = (
        f"{c.name} has {k} {c.container} of {m} {c.thing}. {c.he} gives {b} to {c.friend} and "
        f"buys {d}. How many {c.thing} does {c.name} have?"
    )
    rest = total - b
    steps = (
        f"{c.he} has {k} * {m} = {total} {c.thing}.",
        f"After the gift {total} - {b} = {rest}.",
        f"Then {rest} + {d} = {rest + d}.",
    )
    return Story((k, m, b, d), text, steps, rest + d)


def render(subject: str, story: Story) -> Item:
    """Turn a story into an item in the form of GSM8K: `Question: ...`, `Answer:`, `#### N`."""
    answer = " " + "\n".join([*story.steps, f"#### {story.result}"])
    return Item(
        task=TASK,
        subject=subject,
        key="|".join([TASK, subject, *map(str, story.numbers)]),
        prompt=f"Question: {story.text}\nAnswer:",
        answer=answer,
        fields={"question": story.text, "answer": answer.strip(), "result": str(story.result)},
    )


def _generator(subject: str, tell: Callable[[random.Random, Cast], Story]) -> Generator:
    return lambda rng: render(subject, tell(rng, Cast.draw(rng)))


SUBJECTS: dict[str, Generator] = {
    tell.__name__: _generator(tell.__name__, tell)
    for tell in (
        buy, spend, give, twice, share, more_than, fewer_than, broken, travel, two_prices, saving,
        bus, ages, rows, half, pack_and_trade,
    )
}  # fmt: skip
