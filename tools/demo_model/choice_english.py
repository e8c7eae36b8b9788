"""English multiple choice (`demo_mmlu`), the small image of MMLU.

Ten subjects of different difficulty: some need a fact or a word's category from memory, some a
look back into the question, some arithmetic in the head. Each function draws one random question.
"""

import random

from tools.demo_model.choice import ChoiceFormat, make_item, near_numbers, other
from tools.demo_model.items import Generator, Item
from tools.demo_model.lexicon import english as lex

STYLE = ChoiceFormat(task="demo_mmlu", cue="Answer:", delimiter=" ")


def categories(rng: random.Random) -> Item:
    """Pick the word that belongs to a category."""
    names = rng.sample(list(lex.CATEGORIES), 4)
    right, *wrong = (rng.choice(lex.CATEGORIES[name]) for name in names)
    question = f"Of these, the {names[0]} is:"
    return make_item(STYLE, rng, "categories", question, right, wrong)


def geography(rng: random.Random) -> Item:
    """Capitals and continents, asked in both directions."""
    country = rng.choice(list(lex.COUNTRIES))
    capital, continent = lex.COUNTRIES[country]
    kind = rng.randrange(3)
    if kind == 0:
        pool = [city for city, _ in lex.COUNTRIES.values()]
        question, right = f"The capital of {country} is:", capital
    elif kind == 1:
        pool, question, right = list(lex.COUNTRIES), f"The country with the capital {capital} is:", country
    else:
        pool = [c for c, (_, where) in lex.COUNTRIES.items() if where != continent]
        question, right = f"The country in {continent} is:", country
    return make_item(STYLE, rng, "geography", question, right, other(rng, pool, right))


def antonyms(rng: random.Random) -> Item:
    """Pick the opposite of a word."""
    pair = rng.choice(lex.ANTONYMS)
    word, right = pair if rng.random() < 0.5 else pair[::-1]
    pool = [entry for entries in lex.ANTONYMS for entry in entries if entry != word]
    question = f"The opposite of {word} is:"
    return make_item(STYLE, rng, "antonyms", question, right, other(rng, pool, right))


def science(rng: random.Random) -> Item:
    """Chemical symbols and the names of young animals."""
    if rng.random() < 0.6:
        element = rng.choice(list(lex.ELEMENTS))
        if rng.random() < 0.5:
            question, right = f"The symbol of {element} is:", lex.ELEMENTS[element]
            pool = list(lex.ELEMENTS.values())
        else:
            question, right = f"The element with the symbol {lex.ELEMENTS[element]} is:", element
            pool = list(lex.ELEMENTS)
    else:
        animal = rng.choice(list(lex.YOUNG))
        question, right = f"A young {animal} is called:", lex.YOUNG[animal]
        pool = list(lex.YOUNG.values())
    return make_item(STYLE, rng, "science", question, right, other(rng, pool, right))


def grammar(rng: random.Random) -> Item:
    """Pick the past tense of an irregular verb."""
    verb = rng.choice(list(lex.PAST_TENSES))
    right = lex.PAST_TENSES[verb]
    question = f"The past tense of {verb} is:"
    wrong = other(rng, lex.PAST_TENSES.values(), right)
    return make_item(STYLE, rng, "grammar", question, right, wrong)


def literature(rng: random.Random) -> Item:
    """Pick the author of a work."""
    work = rng.choice(list(lex.WORKS))
    right = lex.WORKS[work]
    wrong = other(rng, lex.WORKS.values(), right)
    return make_item(STYLE, rng, "literature", f"The author of {work} is:", right, wrong)


def arithmetic(rng: random.Random) -> Item:
    """Add, subtract or multiply in the head."""
    kind = rng.choice("+-*")
    if kind == "*":
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        value = a * b
    else:
        a, b = rng.randint(3, 60), rng.randint(3, 39)
        if kind == "-" and b > a:
            a, b = b, a
        value = a + b if kind == "+" else a - b
    wrong = near_numbers(rng, value)
    key = f"arithmetic|{a}{kind}{b}"
    question = f"{a} {kind} {b} equals:"
    return make_item(STYLE, rng, "arithmetic", question, str(value), wrong, key)


def comparison(rng: random.Random) -> Item:
    """Pick the largest or the smallest of four numbers."""
    numbers = rng.sample(range(1, 1000), 4)
    word = rng.choice(["largest", "smallest"])
    right = max(numbers) if word == "largest" else min(numbers)
    wrong = [str(n) for n in numbers if n != right]
    key = "comparison|" + "|".join(str(n) for n in sorted(numbers))
    question = f"The {word} number is:"
    return make_item(STYLE, rng, "comparison", question, str(right), wrong, key)


def calendar(rng: random.Random) -> Item:
    """Count days or months forwards and backwards."""
    cycle, unit = rng.choice([(lex.WEEKDAYS, "day"), (lex.MONTHS, "month")])
    start, steps = rng.randrange(len(cycle)), rng.randint(1, 5)
    word = rng.choice(["after", "before"])
    right = cycle[(start + (steps if word == "after" else -steps)) % len(cycle)]
    count = f"{steps} {unit}{'s' if steps > 1 else ''}"
    question = f"{count} {word} {cycle[start]} is:"
    return make_item(STYLE, rng, "calendar", question, right, other(rng, cycle, right))


def reading(rng: random.Random) -> Item:
    """Find who has what, or who is where, in two or three sentences."""
    people = rng.sample(list(lex.NAMES), 3)
    asked = rng.randrange(3)
    if rng.random() < 0.5:
        thing = rng.choice(lex.BELONGINGS)
        values = rng.sample(lex.COLOURS, 4)
        story = [f"{who} has a {v} {thing}." for who, v in zip(people, values, strict=False)]
        question = f"{people[asked]}'s {thing} is:"
    else:
        values = rng.sample(lex.PLACES, 4)
        story = [f"{who} is in the {v}." for who, v in zip(people, values, strict=False)]
        question = f"{people[asked]} is in the:"
    right = values[asked]
    wrong = [v for v in values if v != right]
    return make_item(STYLE, rng, "reading", " ".join([*story, question]), right, wrong)


def logic(rng: random.Random) -> Item:
    """Order three people from two comparisons."""
    people = rng.sample(list(lex.NAMES), 4)
    more, most, least = rng.choice(list(lex.ORDERS.values()))
    facts = [f"{people[0]} is {more} than {people[1]}.", f"{people[1]} is {more} than {people[2]}."]
    rng.shuffle(facts)
    word, right = rng.choice([(most, people[0]), (least, people[2])])
    wrong = [who for who in people if who != right]
    question = " ".join([*facts, f"The {word} is:"])
    return make_item(STYLE, rng, "logic", question, right, wrong)


SUBJECTS: dict[str, Generator] = {
    "categories": categories,
    "geography": geography,
    "antonyms": antonyms,
    "science": science,
    "grammar": grammar,
    "literature": literature,
    "arithmetic": arithmetic,
    "comparison": comparison,
    "calendar": calendar,
    "reading": reading,
    "logic": logic,
}
