"""Chinese multiple choice (`demo_ceval`), the small image of C-Eval.

Ten subjects: provinces and capitals, idioms, poems, measure words, antonyms and word categories
from memory; arithmetic, comparison, the calendar, reading and ordering from the question itself.
"""

import random

from tools.demo_model.choice import ChoiceFormat, make_item, near_numbers, other
from tools.demo_model.items import Generator, Item
from tools.demo_model.lexicon import chinese as lex

STYLE = ChoiceFormat(task="demo_ceval", cue="答案：", delimiter="")


def categories(rng: random.Random) -> Item:
    """Pick the word that belongs to a category."""
    names = rng.sample(list(lex.CATEGORIES), 4)
    right, *wrong = (rng.choice(lex.CATEGORIES[name]) for name in names)
    question = f"下列词语中，属于{names[0]}的是："
    return make_item(STYLE, rng, "categories", question, right, wrong)


def geography(rng: random.Random) -> Item:
    """Capitals of provinces and of countries."""
    if rng.random() < 0.5:
        table, template = lex.PROVINCES, "{}省的省会是："
    else:
        table, template = lex.CAPITALS, "{}的首都是："
    place = rng.choice(list(table))
    right = table[place]
    wrong = other(rng, table.values(), right)
    return make_item(STYLE, rng, "geography", template.format(place), right, wrong)


def antonyms(rng: random.Random) -> Item:
    """Pick the opposite of a word."""
    pair = rng.choice(lex.ANTONYMS)
    word, right = pair if rng.random() < 0.5 else pair[::-1]
    # Options of one length, or the length would give the answer away.
    pool = [w for p in lex.ANTONYMS for w in p if w != word and len(w) == len(right)]
    question = f"“{word}”的反义词是："
    return make_item(STYLE, rng, "antonyms", question, right, other(rng, pool, right))


def measure_words(rng: random.Random) -> Item:
    """Pick the measure word of a noun."""
    noun = rng.choice(list(lex.MEASURE_WORDS))
    right = lex.MEASURE_WORDS[noun]
    fitting = lex.MEASURE_WORDS_TOO.get(noun, "")
    pool = [word for word in lex.MEASURE_WORDS.values() if word not in fitting]
    question = f"“一（　）{noun}”应填的量词是："
    return make_item(STYLE, rng, "measure_words", question, right, other(rng, pool, right))


def idioms(rng: random.Random) -> Item:
    """Fill in the missing character of an idiom."""
    idiom = rng.choice(list(lex.IDIOMS))
    gap = lex.IDIOMS[idiom]
    pool = [each[position] for each, position in lex.IDIOMS.items()]
    question = f"成语“{idiom[:gap]}（　）{idiom[gap + 1 :]}”应填："
    return make_item(STYLE, rng, "idioms", question, idiom[gap], other(rng, pool, idiom[gap]))


def poetry(rng: random.Random) -> Item:
    """Pick the poet of a poem."""
    poem = rng.choice(list(lex.POEMS))
    right = lex.POEMS[poem]
    wrong = other(rng, lex.POEMS.values(), right)
    return make_item(STYLE, rng, "poetry", f"《{poem}》的作者是：", right, wrong)


def arithmetic(rng: random.Random) -> Item:
    """Add, subtract or multiply in the head."""
    kind = rng.choice("+-*")
    if kind == "*":
        a, b = rng.randint(2, 9), rng.randint(2, 12)
        value = a * b
    else:
        a, b = rng.randint(3, 60), rng.randint(3, 39)
        if kind == "-" and b > a:
            a, b = b, a
        value = a + b if kind == "+" else a - b
    word = {"+": "加", "-": "减", "*": "乘"}[kind]
    key = f"arithmetic|{a}{kind}{b}"
    wrong = near_numbers(rng, value)
    return make_item(STYLE, rng, "arithmetic", f"{a}{word}{b}等于：", str(value), wrong, key)


def comparison(rng: random.Random) -> Item:
    """Pick the largest or the smallest of four numbers."""
    numbers = rng.sample(range(1, 1000), 4)
    word = rng.choice(["大", "小"])
    right = max(numbers) if word == "大" else min(numbers)
    wrong = [str(n) for n in numbers if n != right]
    key = "comparison|" + "|".join(str(n) for n in sorted(numbers))
    return make_item(STYLE, rng, "comparison", f"下列各数中，最{word}的是：", str(right), wrong, key)


def calendar(rng: random.Random) -> Item:
    """Count weekdays, or the animals of the zodiac, forwards and backwards."""
    steps, forwards = rng.randint(1, 4), rng.random() < 0.5
    number = lex.DIGITS[steps] if steps != 2 else "两"
    word = "后" if forwards else "前"
    if rng.random() < 0.6:
        cycle = lex.WEEKDAYS
        start = rng.randrange(len(cycle))
        question = f"{cycle[start]}的{number}天{word}是："
    else:
        cycle = lex.ZODIAC
        start = rng.randrange(len(cycle))
        question = f"生肖{cycle[start]}年的{number}年{word}是："
    right = cycle[(start + (steps if forwards else -steps)) % len(cycle)]
    return make_item(STYLE, rng, "calendar", question, right, other(rng, cycle, right))


def reading(rng: random.Random) -> Item:
    """Find who has what, or who is where, in three short sentences."""
    people = rng.sample(lex.NAMES, 3)
    asked = rng.randrange(3)
    if rng.random() < 0.5:
        thing = rng.choice(lex.BELONGINGS)
        values = rng.sample(lex.COLOURS, 4)
        story = [f"{who}的{thing}是{v}" for who, v in zip(people, values, strict=False)]
        question = f"{people[asked]}的{thing}是："
    else:
        values = rng.sample(lex.PLACES, 4)
        story = [f"{who}在{v}" for who, v in zip(people, values, strict=False)]
        question = f"{people[asked]}在："
    right = values[asked]
    wrong = [v for v in values if v != right]
    return make_item(STYLE, rng, "reading", f"{'，'.join(story)}。{question}", right, wrong)


def logic(rng: random.Random) -> Item:
    """Order three people from two comparisons."""
    people = rng.sample(lex.NAMES, 4)
    more = rng.choice(list(lex.ORDERS))
    most, least = lex.ORDERS[more]
    facts = [f"{people[0]}比{people[1]}{more}", f"{people[1]}比{people[2]}{more}"]
    rng.shuffle(facts)
    word, right = rng.choice([(most, people[0]), (least, people[2])])
    wrong = [who for who in people if who != right]
    question = f"{'，'.join(facts)}。三人中{word}的是："
    return make_item(STYLE, rng, "logic", question, right, wrong)


SUBJECTS: dict[str, Generator] = {
    "categories": categories,
    "geography": geography,
    "antonyms": antonyms,
    "measure_words": measure_words,
    "idioms": idioms,
    "poetry": poetry,
    "arithmetic": arithmetic,
    "comparison": comparison,
    "calendar": calendar,
    "reading": reading,
    "logic": logic,
}
