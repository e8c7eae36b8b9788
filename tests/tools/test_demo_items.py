"""The generators: the same items for the same seed, in splits that do not touch, with right answers."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.demo_model.corpus import ABILITIES
from tools.demo_model.functions import unit_tests
from tools.demo_model.items import Item, balanced, draw, split_of, stream
from tools.demo_model.lexicon import chinese, english

SUBJECTS = [(task, subject) for task, subjects in ABILITIES.items() for subject in subjects]
seeds = st.integers(0, 2**32)


def items_of(task: str, seed: int, split: str, count: int) -> list[Item]:
    source = stream(ABILITIES[task], {}, random.Random(seed), split)
    return [next(source) for _ in range(count)]


@pytest.mark.parametrize("task", ABILITIES)
def test_the_same_seed_gives_the_same_items(task: str) -> None:
    assert items_of(task, 7, "train", 50) == items_of(task, 7, "train", 50)
    assert items_of(task, 7, "train", 50) != items_of(task, 8, "train", 50)


@pytest.mark.parametrize(("task", "subject"), SUBJECTS)
def test_each_subject_has_items_in_every_split(task: str, subject: str) -> None:
    for split in ("train", "calibration", "test"):
        item = draw(ABILITIES[task][subject], random.Random(1), split)
        assert split_of(item.key) == split
        assert item.task == task and item.subject == subject


@pytest.mark.parametrize("task", ABILITIES)
def test_splits_share_no_key_and_no_prompt(task: str) -> None:
    made = {split: items_of(task, 3, split, 400) for split in ("train", "calibration", "test")}
    for one, other in (("train", "test"), ("train", "calibration"), ("calibration", "test")):
        assert not {i.key for i in made[one]} & {i.key for i in made[other]}
        assert not {i.prompt for i in made[one]} & {i.prompt for i in made[other]}


@given(seeds, st.sampled_from(["demo_ceval", "demo_mmlu"]))
@settings(max_examples=60, deadline=None)
def test_a_choice_item_names_the_right_option_once(seed: int, task: str) -> None:
    item = items_of(task, seed, "train", 1)[0]
    options = [item.fields[letter] for letter in "ABCD"]
    assert len(set(options)) == 4
    assert item.fields[item.fields["answer"]] == item.fields["right"]
    assert item.answer.strip() == item.fields["answer"]
    assert item.prompt.endswith("答案：" if task == "demo_ceval" else "\nAnswer:")


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_every_step_of_a_solution_is_a_true_equation(seed: int) -> None:
    item = items_of("demo_gsm8k", seed, "train", 1)[0]
    steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", item.answer)
    assert steps
    for a, sign, b, value in steps:
        results = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}
        results["/"] = int(a) // int(b)
        assert results[sign] == int(value)
        assert int(value) > 0
    assert item.answer.endswith(f"#### {item.fields['result']}")
    assert steps[-1][3] == item.fields["result"]


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_a_canonical_solution_passes_its_unit_tests(seed: int) -> None:
    item = items_of("demo_humaneval", seed, "test", 1)[0]
    scope: dict[str, object] = {}
    exec(item.prompt + item.answer + "\n" + unit_tests(item), scope)
    scope["check"](scope[item.fields["entry_point"]])  # type: ignore[operator]


def test_unit_tests_tell_a_wrong_solution() -> None:
    item = draw(ABILITIES["demo_humaneval"]["branches"], random.Random(5), "test")
    scope: dict[str, object] = {}
    exec(item.prompt + "    return None\n\n" + unit_tests(item), scope)
    with pytest.raises(AssertionError):
        scope["check"](scope[item.fields["entry_point"]])  # type: ignore[operator]


def test_a_wrong_order_of_options_or_wording_does_not_change_the_split() -> None:
    generator = ABILITIES["demo_mmlu"]["comparison"]
    keys: dict[str, set[str]] = {}
    for seed in range(200):
        item = generator(random.Random(seed))
        numbers = "|".join(sorted((item.fields[letter] for letter in "ABCD"), key=int))
        keys.setdefault(numbers, set()).add(item.key)
    assert all(len(found) == 1 for found in keys.values())


def test_balanced_gives_each_subject_its_share() -> None:
    items = balanced(ABILITIES["demo_mmlu"], random.Random(1), "test", 110)
    assert len({item.key for item in items}) == 110
    counts = [sum(i.subject == name for i in items) for name in ABILITIES["demo_mmlu"]]
    assert set(counts) == {10}


def test_balanced_refuses_a_subject_with_too_few_items() -> None:
    only = {"one": lambda rng: Item("t", "one", "demo-key-9", "p", "a")}
    with pytest.raises(RuntimeError, match="one"):
        balanced(only, random.Random(1), split_of("demo-key-9"), 2)


@pytest.mark.parametrize("table", [english.CATEGORIES, chinese.CATEGORIES])
def test_no_word_is_in_two_categories(table: dict[str, list[str]]) -> None:
    words = [word for group in table.values() for word in group]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("pairs", [english.ANTONYMS, chinese.ANTONYMS])
def test_no_word_has_two_opposites(pairs: list[tuple[str, str]]) -> None:
    words = [word for pair in pairs for word in pair]
    assert len(words) == len(set(words))


def test_idioms_are_right_in_form() -> None:
    for idiom, gap in chinese.IDIOMS.items():
        assert len(idiom) == 4 and 0 <= gap < 4
    # A gapped idiom has one completion in the table.
    gapped = [(i[:gap], i[gap + 1 :]) for i, gap in chinese.IDIOMS.items()]
    assert len(gapped) == len(set(gapped))


def test_measure_words_that_fit_as_well_are_of_known_nouns() -> None:
    assert set(chinese.MEASURE_WORDS_TOO) <= set(chinese.MEASURE_WORDS)
