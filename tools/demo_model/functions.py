"""Python functions to complete (`demo_humaneval`), the small image of HumanEval.

A docstring composes a few operations (keep, map, reduce; conditions; steps on a number; words of
a text) and the body writes them in Python. The key is the combination of the operations without
its constants and names, so the tests ask for combinations that no training document shows.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.demo_model.items import Generator, Item

TASK = "demo_humaneval"

NAMES = ["solve", "compute", "process", "transform", "calculate", "evaluate", "convert", "handle", "apply", "derive"]
LISTS = ["xs", "nums", "values", "items", "numbers", "data"]
SCALARS = ["n", "x", "value", "number", "k", "m"]
TEXTS = ["text", "s", "line", "sentence", "string", "phrase"]


@dataclass(frozen=True)
class Op:
    """One operation: its name in the key, its wording in a docstring, its Python code.

    `{k}` is a constant, `{v}` the operand.
    """

    name: str
    words: str
    code: str
    low: int = 2
    high: int = 9

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """Return the words and the code with a random constant filled in."""
        constant = str(rng.randint(self.low, self.high))
        return self.words.replace("{k}", constant), self.code.replace("{k}", constant)


KEEP = [
    Op("even", "even numbers", "{v} % 2 == 0"),
    Op("odd", "odd numbers", "{v} % 2 == 1"),
    Op("positive", "positive numbers", "{v} > 0"),
    Op("negative", "negative numbers", "{v} < 0"),
    Op("nonzero", "nonzero numbers", "{v} != 0"),
    Op("greater", "numbers greater than {k}", "{v} > {k}"),
    Op("less", "numbers less than {k}", "{v} < {k}"),
    Op("at_least", "numbers of at least {k}", "{v} >= {k}"),
    Op("at_most", "numbers of at most {k}", "{v} <= {k}"),
    Op("multiple", "multiples of {k}", "{v} % {k} == 0", 3, 9),
    Op("not_multiple", "numbers not divisible by {k}", "{v} % {k} != 0", 3, 9),
    Op("differs", "numbers other than {k}", "{v} != {k}"),
    Op("one_digit", "one-digit numbers", "abs({v}) < 10"),
    Op("two_digit", "two-digit numbers", "10 <= abs({v}) < 100"),
]
MAP = [
    Op("square", "square each", "{v} * {v}"),
    Op("cube", "cube each", "{v} ** 3"),
    Op("double", "double each", "{v} * 2"),
    Op("triple", "triple each", "{v} * 3"),
    Op("negate", "negate each", "-{v}"),
    Op("absolute", "take absolute values", "abs({v})"),
    Op("add", "add {k} to each", "{v} + {k}"),
    Op("subtract", "subtract {k} from each", "{v} - {k}"),
    Op("multiply", "multiply each by {k}", "{v} * {k}", 4, 9),
    Op("remainder", "take remainders modulo {k}", "{v} % {k}", 3, 9),
    Op("floor", "floor-divide each by {k}", "{v} // {k}", 2, 9),
    Op("from", "subtract each from {k}", "{k} - {v}"),
    Op("cap", "cap each at {k}", "min({v}, {k})"),
    Op("raise", "raise each to at least {k}", "max({v}, {k})"),
]
REDUCE = [
    Op("sum", "return the sum", "sum({g})"),
    Op("max", "return the largest or 0 if there is none", "max(({g}), default=0)"),
    Op("min", "return the smallest or 0 if there is none", "min(({g}), default=0)"),
    Op("list", "return the list", "[{g}]"),
    Op("ascending", "return them sorted", "sorted({g})"),
    Op("descending", "return them in descending order", "sorted(({g}), reverse=True)"),
    Op("distinct", "return how many are distinct", "len(set({g}))"),
    Op("set", "return the set", "set({g})"),
    Op("reversed", "return them in reverse order", "[{g}][::-1]"),
    Op("first", "return the first three", "[{g}][:3]"),
    Op("text", "return them joined by commas", '",".join(str(y) for y in [{g}])'),
    Op("tuple", "return a tuple", "tuple({g})"),
]
TEST = [
    Op("even", "is even", "{v} % 2 == 0"),
    Op("odd", "is odd", "{v} % 2 == 1"),
    Op("greater", "is greater than {k}", "{v} > {k}"),
    Op("less", "is less than {k}", "{v} < {k}"),
    Op("at_least", "is at least {k}", "{v} >= {k}"),
    Op("multiple", "is a multiple of {k}", "{v} % {k} == 0", 3, 9),
    Op("negative", "is negative", "{v} < 0"),
    Op("equals", "equals {k}", "{v} == {k}"),
]
STEP = [
    Op("add", "add {k}", "{v} + {k}"),
    Op("subtract", "subtract {k}", "{v} - {k}"),
    Op("multiply", "multiply by {k}", "{v} * {k}"),
    Op("floor", "floor-divide by {k}", "{v} // {k}"),
    Op("remainder", "take the remainder modulo {k}", "{v} % {k}", 3, 9),
    Op("square", "square it", "{v} * {v}"),
    Op("negate", "negate it", "-{v}"),
    Op("absolute", "take the absolute value", "abs({v})"),
    Op("cap", "cap it at {k}", "min({v}, {k})"),
    Op("raise", "raise it to at least {k}", "max({v}, {k})"),
]
WORD_TEST = [
    Op("longer", "words longer than {k} letters", "len(w) > {k}", 2, 6),
    Op("shorter", "words shorter than {k} letters", "len(w) < {k}", 3, 7),
    Op("starts", "words that start with {c}", "w.startswith({c})"),
    Op("ends", "words that end with {c}", "w.endswith({c})"),
    Op("contains", "words that contain {c}", "{c} in w"),
    Op("lacks", "words without {c}", "{c} not in w"),
    Op("exactly", "words of exactly {k} letters", "len(w) == {k}", 2, 6),
]
WORD_MAP = [
    Op("upper", "make each uppercase", "w.upper()"),
    Op("reverse", "reverse each", "w[::-1]"),
    Op("title", "capitalize each", "w.capitalize()"),
    Op("initial", "take each first letter", "w[0]"),
    Op("final", "take each last letter", "w[-1]"),
    Op("length", "take each length", "len(w)"),
    Op("cut", "cut each to {k} letters", "w[:{k}]", 2, 5),
    Op("repeat", "repeat each {k} times", "w * {k}", 2, 4),
]
WORD_REDUCE = [
    Op("list", "return the list", "[{g}]"),
    Op("ascending", "return them sorted", "sorted({g})"),
    Op("descending", "return them in descending order", "sorted(({g}), reverse=True)"),
    Op("distinct", "return how many are distinct", "len(set({g}))"),
    Op("set", "return the set", "set({g})"),
    Op("reversed", "return them in reverse order", "[{g}][::-1]"),
    Op("first", "return the first three", "[{g}][:3]"),
    Op("tuple", "return a tuple", "tuple({g})"),
]


@dataclass(frozen=True)
class Problem:
    """A function to write.

    Attributes:
        operations: The combination of operations; the key.
        parameter: The name of the one parameter.
        docstring: Specification of the function.
        lines: The body, one entry a line, not indented.
        inputs: Arguments that the unit tests use.
    """

    operations: tuple[str, ...]
    parameter: str
    docstring: str
    lines: tuple[str, ...]
    inputs: tuple[Any, ...]


def _numbers(rng: random.Random) -> tuple[list[int], ...]:
    """Inputs for functions of a list: empty, small, large and repeated numbers."""
    lists = [[rng.randint(-12, 15) for _ in range(8)] for _ in range(3)]
    return ([], *lists, [rng.randint(-150, 150) for _ in range(8)], list(range(-3, 11)) * 2)


def pipeline_of_lists(rng: random.Random) -> Problem:
    """Keep some numbers, map each, reduce."""
    keep, change, reduce = rng.choice(KEEP), rng.choice(MAP), rng.choice(REDUCE)
    arg = rng.choice(LISTS)
    keep_words, keep_code = keep.draw(rng)
    change_words, change_code = change.draw(rng)
    generator = f"{change_code} for {{v}} in {arg} if {keep_code}".replace("{v}", "x")
    return Problem(
        ("list", keep.name, change.name, reduce.name),
        arg,
        f"Take the {keep_words} in {arg}, {change_words}, and {reduce.words}.",
        (f"return {reduce.code.replace('{g}', generator)}",),
        _numbers(rng),
    )


def nested_maps(rng: random.Random) -> Problem:
    """Map each number twice, reduce."""
    first, second = rng.sample(MAP, 2)
    reduce, arg = rng.choice(REDUCE), rng.choice(LISTS)
    first_words, first_code = first.draw(rng)
    second_words, second_code = second.draw(rng)
    inner = first_code.replace("{v}", "x")
    # A name or a call needs no brackets inside another operation.
    inner = inner if inner.endswith(")") else f"({inner})"
    generator = f"{second_code.replace('{v}', inner)} for x in {arg}"
    return Problem(
        ("maps", first.name, second.name, reduce.name),
        arg,
        f"From {arg}, {first_words}, then {second_words}, and {reduce.words}.",
        (f"return {reduce.code.replace('{g}', generator)}",),
        _numbers(rng),
    )


def branches(rng: random.Random) -> Problem:
    """One step on a number under a condition, another one otherwise."""
    test, (yes, no) = rng.choice(TEST), rng.sample(STEP, 2)
    arg = rng.choice(SCALARS)
    test_words, test_code = test.draw(rng)
    yes_words, yes_code = yes.draw(rng)
    no_words, no_code = no.draw(rng)
    lines = (f"if {test_code}:", f"    return {yes_code}", f"return {no_code}")
    return Problem(
        ("branch", test.name, yes.name, no.name),
        arg,
        f"If {arg} {test_words}, {yes_words}; otherwise {no_words}.",
        tuple(line.replace("{v}", arg) for line in lines),
        tuple(range(-12, 25)),
    )


def steps(rng: random.Random) -> Problem:
    """Three steps on a number, one after the other."""
    chain = rng.sample(STEP, 3)
    arg = rng.choice(SCALARS)
    drawn = [op.draw(rng) for op in chain]
    words = [words for words, _ in drawn]
    lines = [f"{arg} = {code.replace('{v}', arg)}" for _, code in drawn]
    return Problem(
        ("steps", *(op.name for op in chain)),
        arg,
        f"Start with {arg}: {words[0]}, then {words[1]}, then {words[2]}.",
        (*lines, f"return {arg}"),
        tuple(range(-12, 25)),
    )


def words_of_text(rng: random.Random) -> Problem:
    """Keep some words of a text, map each, reduce."""
    keep, change, reduce = rng.choice(WORD_TEST), rng.choice(WORD_MAP), rng.choice(WORD_REDUCE)
    arg, letter = rng.choice(TEXTS), '"' + rng.choice("abcdeghilmnoprstw") + '"'
    keep_words, keep_code = (part.replace("{c}", letter) for part in keep.draw(rng))
    change_words, change_code = change.draw(rng)
    generator = f"{change_code} for w in {arg}.split() if {keep_code}"
    return Problem(
        ("words", keep.name, change.name, reduce.name),
        arg,
        f"Take the {keep_words} in {arg}, {change_words}, and {reduce.words}.",
        (f"return {reduce.code.replace('{g}', generator)}",),
        (
            "",
            "the wind blows over a small green hill near the town",
            "one map is lost and two men go on to the old mill",
            "cats and dogs rest at home while geese swim in circles",
            "a bad plan as good as none is a plan all the same",
        ),
    )


def loops(rng: random.Random) -> Problem:
    """Collect mapped numbers in a loop, with a condition to skip or to stop."""
    test, change = rng.choice(TEST), rng.choice(MAP)
    arg = rng.choice(LISTS)
    stop = rng.random() < 0.5
    test_words, test_code = test.draw(rng)
    change_words, change_code = change.draw(rng)
    verb, word = ("break", "stop at a") if stop else ("continue", "skip any")
    lines = (
        "out = []",
        f"for x in {arg}:",
        f"    if {test_code}:",
        f"        {verb}",
        f"    out.append({change_code})",
        "return out",
    )
    return Problem(
        ("loop", verb, test.name, change.name),
        arg,
        f"Go through {arg} but {word} number that {test_words}; {change_words}, and return the list.",
        tuple(line.replace("{v}", "x") for line in lines),
        _numbers(rng),
    )


def render(subject: str, problem: Problem, name: str) -> Item:
    """Turn a problem into an item: signature and docstring to continue, body, unit tests.

    The expected values come from running our own solution, here and nowhere else.
    """
    prompt = f'def {name}({problem.parameter}):\n    """{problem.docstring}"""\n'
    body = "".join(f"    {line}\n" for line in problem.lines)
    return Item(
        task=TASK,
        subject=subject,
        key="|".join([TASK, *problem.operations]),
        prompt=prompt,
        answer=body,
        fields={"entry_point": name, "inputs": problem.inputs, "docstring": problem.docstring},
    )


def unit_tests(item: Item) -> str:
    """Write `check(candidate)` for an item: one assertion an input.

    The expected values come from running the item's own solution, which this module wrote.
    """
    scope: dict[str, Any] = {}
    exec(item.prompt + item.answer, scope)  # our own solution, never a model's
    solution = scope[item.fields["entry_point"]]
    lines = ["def check(candidate):"]
    for value in item.fields["inputs"]:
        expected = solution(list(value) if isinstance(value, list) else value)
        text = repr(sorted(expected)) if isinstance(expected, set) else repr(expected)
        # A set prints in an order that is not the same everywhere.
        text = f"set({text})" if isinstance(expected, set) else text
        lines.append(f"    assert candidate({value!r}) == {text}")
    return "\n".join(lines) + "\n"


def _generator(subject: str, pose: Callable[[random.Random], Problem]) -> Generator:
    return lambda rng: render(subject, pose(rng), rng.choice(NAMES))


SUBJECTS: dict[str, Generator] = {
    pose.__name__: _generator(pose.__name__, pose)
    for pose in (pipeline_of_lists, nested_maps, branches, steps, words_of_text, loops)
}
