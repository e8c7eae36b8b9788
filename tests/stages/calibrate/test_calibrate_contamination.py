"""Text that stands in both sets is found; a contaminated set is refused unless it is allowed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import PROJECT_ROOT
from pipeline.errors import InputError
from pipeline.stages.calibrate import contamination
from pipeline.stages.calibrate.card import languages

WORDS = st.lists(st.sampled_from(["red", "green", "blue", "one", "two", "three"]), min_size=5, max_size=30)


@given(WORDS, WORDS, WORDS)
def test_an_item_overlaps_with_a_text_that_quotes_it(item: list[str], before: list[str], after: list[str]) -> None:
    text = " ".join([*before, *item, *after]).title() + "!"
    assert contamination.overlapping([text], [" ".join(item)], n=5) == [0]


def test_short_and_foreign_items_do_not_overlap() -> None:
    assert contamination.overlapping(["one two three"], ["one two three", "four five six seven"], n=4) == []


def test_chinese_characters_are_words() -> None:
    assert contamination.words("下面哪一个是ABC 12?") == [*"下面哪一个是", "abc", "12"]
    assert contamination.overlapping(["请问下面哪一个是正确的答案"], ["下面哪一个是"], n=6) == [0]


def test_a_set_made_of_the_test_questions_is_refused_by_name(job, conversations) -> None:
    data = next((PROJECT_ROOT / "pipeline" / "demo").rglob("demo_gsm8k*.jsonl"), None) or next(
        (PROJECT_ROOT / "pipeline" / "demo").rglob("*gsm8k*.jsonl")
    )
    rows = [json.loads(line) for line in data.read_text().splitlines()[:120]]
    path = conversations(*(row["question"] for row in rows))
    given = (f"calibration.dataset.path={path}", "calibration.num_samples=100")
    texts = [row["question"] for row in rows]
    refused = job(*given)
    entries = contamination.report(refused, texts)
    by_name = {entry.evaluation: entry for entry in entries}
    assert by_name["GSM8K"].overlapping >= 100
    assert by_name["HumanEval"].overlapping == 0
    with pytest.raises(InputError, match=r"shares runs of 13 words with \d+ of the 600 items of GSM8K"):
        contamination.refuse_contamination(refused, entries)
    contamination.refuse_contamination(job(*given, "calibration.allow_contamination=true"), entries)


def test_an_evaluation_that_cannot_be_read_is_said_and_refuses_nothing(job, monkeypatch) -> None:
    # The environment was read when these were imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    asked = job("eval=study", "calibration=demo")
    only = asked.settings.eval.model_copy(update={"tasks": {"X": asked.settings.eval.tasks["GSM8K"]}})
    asked.settings = asked.settings.model_copy(update={"eval": only})
    (entry,) = contamination.report(asked, ["text"])
    assert (entry.evaluation, entry.items, entry.overlapping, entry.share) == ("X", None, None, None)
    assert "the data of gsm8k cannot be reached" in entry.reason
    contamination.refuse_contamination(asked, [entry])


def test_languages_are_told_apart() -> None:
    found = languages(["The weather in the north is cold today.", "今天北方的天气非常寒冷，请多穿衣服。", "!"])
    assert found["en"] == pytest.approx(1 / 3)
    assert found["zh"] == pytest.approx(1 / 3)
    assert found["?"] == pytest.approx(1 / 3)
