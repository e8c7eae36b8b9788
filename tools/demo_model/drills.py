"""Short practice documents for training only: the facts and sums behind the questions.

A multiple-choice question trains one letter in fifty tokens. A drill states several facts, or
several sums, in as many tokens, and so teaches the knowledge that the questions then combine.
Sums of held-out questions are left out by the same keys that split the questions.
"""

import random
from collections.abc import Callable

from tools.demo_model.choice import LETTERS
from tools.demo_model.items import split_of
from tools.demo_model.lexicon import chinese as zh
from tools.demo_model.lexicon import english as en

# One drill: pairs (given text, text to learn).
Pairs = list[tuple[str, str]]


def _sum(rng: random.Random, high: int) -> tuple[int, str, int, int] | None:
    """Draw a sum that is not held out."""
    kind = rng.choice("+-*/")
    if kind in "*/":
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        value = a * b
        if kind == "/":
            a, value = value, a
    else:
        a, b = rng.randint(2, high), rng.randint(2, high)
        if kind == "-" and b > a:
            a, b = b, a
        value = a + b if kind == "+" else a - b
    return None if split_of(f"arithmetic|{a}{kind}{b}") != "train" else (a, kind, b, value)


def sums(rng: random.Random) -> Pairs:
    """Return several sums in digits."""
    drawn = [_sum(rng, rng.choice([20, 60, 120])) for _ in range(7)]
    return [(f"{a} {kind} {b} =", f" {value}\n") for a, kind, b, value in filter(None, drawn)]


def facts_english(rng: random.Random) -> Pairs:
    """Return several English facts of different subjects."""
    category = rng.choice(list(en.CATEGORIES))
    country = rng.choice(list(en.COUNTRIES))
    capital, continent = en.COUNTRIES[country]
    pair = rng.choice(en.ANTONYMS)
    word, opposite = pair if rng.random() < 0.5 else pair[::-1]
    element = rng.choice(list(en.ELEMENTS))
    animal, verb, work = (rng.choice(list(t)) for t in (en.YOUNG, en.PAST_TENSES, en.WORKS))
    pool: Pairs = [
        (f"The word {rng.choice(en.CATEGORIES[category])}:", f" {category}\n"),
        (f"The capital of {country}:", f" {capital}\n"),
        (f"The capital {capital}:", f" {country}\n"),
        (f"The continent of {country}:", f" {continent}\n"),
        (f"The opposite of {word}:", f" {opposite}\n"),
        (f"The symbol of {element}:", f" {en.ELEMENTS[element]}\n"),
        (f"The symbol {en.ELEMENTS[element]}:", f" {element}\n"),
        (f"A young {animal}:", f" {en.YOUNG[animal]}\n"),
        (f"The past tense of {verb}:", f" {en.PAST_TENSES[verb]}\n"),
        (f"The author of {work}:", f" {en.WORKS[work]}\n"),
    ]
    return rng.sample(pool, 6)


def facts_chinese(rng: random.Random) -> Pairs:
    """Return several Chinese facts of different subjects."""
    category = rng.choice(list(zh.CATEGORIES))
    pair = rng.choice(zh.ANTONYMS)
    word, opposite = pair if rng.random() < 0.5 else pair[::-1]
    idiom = rng.choice(list(zh.IDIOMS))
    gap = zh.IDIOMS[idiom]
    province, country, noun, poem = (
        rng.choice(list(t)) for t in (zh.PROVINCES, zh.CAPITALS, zh.MEASURE_WORDS, zh.POEMS)
    )
    pool: Pairs = [
        (f"{rng.choice(zh.CATEGORIES[category])}属于", f"{category}\n"),
        (f"{province}省的省会是", f"{zh.PROVINCES[province]}\n"),
        (f"{country}的首都是", f"{zh.CAPITALS[country]}\n"),
        (f"“{word}”的反义词是", f"{opposite}\n"),
        (f"“一（　）{noun}”填", f"{zh.MEASURE_WORDS[noun]}\n"),
        (f"“{idiom[:gap]}（　）{idiom[gap + 1 :]}”填", f"{idiom[gap]}\n"),
        (f"《{poem}》的作者是", f"{zh.POEMS[poem]}\n"),
    ]
    return rng.sample(pool, 6)


def _english_matches(rng: random.Random) -> Pairs:
    """Return four pairs (question, answer) of one English subject."""
    kind = rng.randrange(7)
    if kind == 0:
        names = rng.sample(list(en.CATEGORIES), 4)
        return [(f"Of these, the {name}", rng.choice(en.CATEGORIES[name])) for name in names]
    if kind == 1:
        countries = rng.sample(list(en.COUNTRIES), 4)
        if rng.random() < 0.5:
            return [(f"The capital of {name}", en.COUNTRIES[name][0]) for name in countries]
        return [(f"The capital {en.COUNTRIES[name][0]}", name) for name in countries]
    if kind == 2:
        pairs = [p if rng.random() < 0.5 else p[::-1] for p in rng.sample(en.ANTONYMS, 4)]
        return [(f"The opposite of {word}", opposite) for word, opposite in pairs]
    if kind == 3:
        elements = rng.sample(list(en.ELEMENTS), 4)
        if rng.random() < 0.5:
            return [(f"The symbol of {name}", en.ELEMENTS[name]) for name in elements]
        return [(f"The symbol {en.ELEMENTS[name]}", name) for name in elements]
    if kind == 4:
        verbs = rng.sample(list(en.PAST_TENSES), 4)
        return [(f"The past tense of {verb}", en.PAST_TENSES[verb]) for verb in verbs]
    if kind == 5:
        if rng.random() < 0.4:
            return [(f"A young {name}", en.YOUNG[name]) for name in rng.sample(list(en.YOUNG), 4)]
        return [(f"The author of {work}", en.WORKS[work]) for work in rng.sample(list(en.WORKS), 4)]
    cycle, unit = rng.choice([(en.WEEKDAYS, "day"), (en.MONTHS, "month")])
    matches = []
    for end in rng.sample(range(len(cycle)), 4):
        steps, back = rng.randint(1, 5), rng.random() < 0.5
        count = f"{steps} {unit}{'s' if steps > 1 else ''}"
        start = cycle[(end + (steps if back else -steps)) % len(cycle)]
        matches.append((f"{count} {'before' if back else 'after'} {start}", cycle[end]))
    return matches


def _chinese_matches(rng: random.Random) -> Pairs:
    """Return four pairs (question, answer) of one Chinese subject."""
    kind = rng.randrange(7)
    if kind == 0:
        names = rng.sample(list(zh.CATEGORIES), 4)
        return [(f"属于{name}的", rng.choice(zh.CATEGORIES[name])) for name in names]
    if kind == 1:
        table, form = rng.choice([(zh.PROVINCES, "{}省的省会"), (zh.CAPITALS, "{}的首都")])
        return [(form.format(place), table[place]) for place in rng.sample(list(table), 4)]
    if kind == 2:
        pairs = [p if rng.random() < 0.5 else p[::-1] for p in rng.sample(zh.ANTONYMS, 4)]
        return [(f"“{word}”的反义词", opposite) for word, opposite in pairs]
    if kind == 3:
        nouns = rng.sample(list(zh.MEASURE_WORDS), 4)
        return [(f"“一（　）{noun}”", zh.MEASURE_WORDS[noun]) for noun in nouns]
    if kind == 4:
        idioms = [(idiom, zh.IDIOMS[idiom]) for idiom in rng.sample(list(zh.IDIOMS), 4)]
        return [(f"“{i[:gap]}（　）{i[gap + 1 :]}”", i[gap]) for i, gap in idioms]
    if kind == 5:
        return [(f"《{poem}》的作者", zh.POEMS[poem]) for poem in rng.sample(list(zh.POEMS), 4)]
    cycle, unit = rng.choice([(zh.WEEKDAYS, "天"), (zh.ZODIAC, "年")])
    matches = []
    for end in rng.sample(range(len(cycle)), 4):
        steps, back = rng.randint(1, 4), rng.random() < 0.5
        number = "两" if steps == 2 else zh.DIGITS[steps]
        start = cycle[(end + (steps if back else -steps)) % len(cycle)]
        start = start + "年" if unit == "年" else start
        matches.append((f"{start}的{number}{unit}{'前' if back else '后'}", cycle[end]))
    return matches


def _number_matches(rng: random.Random) -> Pairs:
    """Return four pairs (question, number): a sum, the largest, the smallest, or the number itself."""
    if rng.random() < 0.6:
        sums_of_four = [drawn for _ in range(8) if (drawn := _sum(rng, 60))][:4]
        return [(f"{a} {kind} {b}", str(value)) for a, kind, b, value in sums_of_four]
    low, *middle, high = map(str, sorted(rng.sample(range(1, 1000), 4)))
    return [
        ("The smallest", low),
        ("The largest", high),
        *((f"Option {number}", number) for number in middle),
    ]


def _echo_matches(rng: random.Random, chinese: bool) -> Pairs:
    """Return four words, each as its own question."""
    table = zh.CATEGORIES if chinese else en.CATEGORIES
    words = rng.sample([word for group in table.values() for word in group], 4)
    return [(f"选项{word}" if chinese else f"Option {word}", word) for word in words]


def matching(rng: random.Random, echo: float) -> Pairs:
    """Return four options and then several questions about them, each answered with a letter.

    Naming the right option takes a step of its own, apart from knowing the answer; single
    questions teach it too slowly, since nothing else is right until it works.

    Args:
        rng: Source of randomness.
        echo: Share of drills that only ask for the letter of a word that is given.
    """
    chinese = rng.random() < 0.5
    matches: Pairs = []
    while len({right for _, right in matches}) < len(LETTERS):
        if rng.random() < echo:
            matches = _echo_matches(rng, chinese)
        elif rng.random() < 0.2:
            matches = _number_matches(rng)
        else:
            matches = _chinese_matches(rng) if chinese else _english_matches(rng)
    rng.shuffle(matches)
    colon, blank = ("：", "") if chinese else (":", " ")
    options = [f"{letter}. {right}\n" for letter, (_, right) in zip(LETTERS, matches, strict=True)]
    listed = "".join(options)
    questions = [(asked, letter) for letter, (asked, _) in zip(LETTERS, matches, strict=True)]
    rng.shuffle(questions)
    if rng.random() < 0.4:
        asked, letter = questions[0]
        cue = "答案：" if chinese else "Answer:"
        return [(f"{asked}{colon}\n{listed}{cue}", f"{blank}{letter}")]
    pairs = [(f"{asked}{colon}", f"{blank}{letter}\n") for asked, letter in questions]
    return [(listed + pairs[0][0], pairs[0][1]), *pairs[1:]]


DRILLS: tuple[Callable[[random.Random], Pairs], ...] = (sums, facts_english, facts_chinese)
