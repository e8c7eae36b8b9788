"""Which conversations are taken, and that the model sees them as its deployment would: whole, templated, unpadded."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.demo import CHECKPOINT
from pipeline.errors import InputError
from pipeline.stages.calibrate.card import card_of
from pipeline.stages.calibrate.conversations import (
    Drawn,
    draw,
    encode,
    interleaved,
    lengths_of,
    shares,
    template_arguments,
)
from pipeline.tasks.chat_templates import ChatTemplate

TURNS = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
# As Mistral's and Gemma's: the user first, then in turn, and no system.
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}" + TURNS
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(CHECKPOINT)


def taken(drawn: list[Drawn]) -> list[list[int]]:
    return [sequence for each in drawn for sequence in each.sequences]


def test_sampling_is_seeded_and_without_repetition(job, tokenizer) -> None:
    first = taken(draw(job("calibration.num_samples=50"), tokenizer))
    assert first == taken(draw(job("calibration.num_samples=50"), tokenizer))
    assert len({tuple(sequence) for sequence in first}) == 50
    assert first != taken(draw(job("calibration.num_samples=50", "calibration.seed=1"), tokenizer))


def test_fewer_samples_are_the_beginning_of_more(job, tokenizer) -> None:
    few, many = (taken(draw(job(f"calibration.num_samples={n}"), tokenizer)) for n in (8, 32))
    assert many[:8] == few


def test_too_few_conversations_are_refused_with_the_number_that_there_are(job, tokenizer, conversations) -> None:
    path = conversations("One?", "Two?", "one?  ", "TWO?")
    with pytest.raises(InputError, match=r"num_samples=200: 200 are wanted .* 2 different .* 4 rows \(2 duplicates\)"):
        draw(job(f"calibration.dataset.path={path}"), tokenizer)


def test_short_and_long_ones_are_left_out_and_counted(job, tokenizer, conversations) -> None:
    path = conversations("a", "b " * 60, "c " * 300, *(f"{n} apples and {n} pears, how many?" for n in range(8)))
    limits = ("calibration.min_seq_length=8", "calibration.max_seq_length=80", "calibration.num_samples=8")
    (drawn,) = draw(job(f"calibration.dataset.path={path}", *limits, "calibration.drop_long=true"), tokenizer)
    assert all(8 <= length <= 80 for length in lengths_of([drawn]))
    assert drawn.counts["too_long"] >= 1
    (cut,) = draw(job(f"calibration.dataset.path={path}", *limits, "calibration.num_samples=11",
                      "calibration.min_seq_length=1"), tokenizer)  # fmt: skip
    assert cut.counts["cut"] >= 1
    assert max(lengths_of([cut])) == 80


def test_what_exceeds_the_context_is_refused_by_name(job, tokenizer, conversations) -> None:
    path = conversations("word " * 5000)
    asked = job(f"calibration.dataset.path={path}", "calibration.num_samples=1", "calibration.max_seq_length=9000")
    with pytest.raises(
        InputError, match=r"max_seq_length=9000: row 0 has [\d,]+ tokens, the model's context holds 2,048"
    ):
        draw(asked, tokenizer)


def test_scaled_positions_hold_more(job, tokenizer, conversations, tmp_path) -> None:
    model = shutil.copytree(CHECKPOINT, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
    (model / "config.json").write_text(json.dumps(config))
    path = conversations("word " * 5000)
    given = ("calibration.num_samples=1", "calibration.max_seq_length=9000", f"calibration.dataset.path={path}")
    (drawn,) = draw(job(f"model.path={model}", *given), tokenizer)
    assert lengths_of([drawn])[0] > 2048


def with_template(template: str | None) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    tokenizer.chat_template = template
    return tokenizer


def test_a_tokenizer_without_a_template_is_refused_at_the_first_conversation(job) -> None:
    with pytest.raises(InputError, match="calibration.apply_chat_template=true: .*template") as refused:
        draw(job(), with_template(None))
    assert "calibration.apply_chat_template=false" in refused.value.remedy


def write_rows(path: Path, *conversations: str) -> Path:
    """Writes conversations of these speakers (s, u, a), each with words of its own."""
    roles = {"s": "system", "u": "human", "a": "gpt"}
    rows = [
        {"conversations": [{"from": roles[r], "value": f"{r} says {n} and {i}"} for i, r in enumerate(speakers)]}
        for n, speakers in enumerate(conversations)
    ]
    path.write_text(json.dumps(rows))
    return path


def test_a_set_for_strict_templates_is_repaired_and_counted(job, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set.json", "ua", "aua", "uuaa", "sua", "aa", "usua", "uauas")
    asked = job(f"calibration.dataset.path={path}", "calibration.num_samples=4")
    tokenizer = with_template(ALTERNATING)
    (drawn,) = draw(asked, tokenizer)
    assert sorted(drawn.texts) == [
        "s says 3 and 0\nu says 3 and 1\na says 3 and 2",
        "u says 0 and 0\na says 0 and 1",
        "u says 1 and 1\na says 1 and 2",
        "u says 2 and 0\n\nu says 2 and 1\na says 2 and 2\n\na says 2 and 3",
    ]
    assert any("s says 3 and 0\n\nu says 3 and 1" in tokenizer.decode(sequence) for sequence in drawn.sequences)
    counts = card_of(asked, [drawn], tokenizer, []).counts
    assert counts["leading_replies"] >= 1 and counts["merged_turns"] == counts["system_turns_folded"] == 1
    with pytest.raises(InputError, match=r"4 different .* 7 rows \(.*2 not alternating.*\)"):
        draw(job(f"calibration.dataset.path={path}", "calibration.num_samples=5"), tokenizer)


def test_what_the_template_refuses_is_passed_over_and_counted(job, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set.json", "ua", "ua", "uaua", "u")
    tokenizer = with_template(
        "{% if messages | length > 2 %}{{ raise_exception('too many turns') }}{% endif %}" + TURNS
    )
    asked = job(f"calibration.dataset.path={path}", "calibration.num_samples=3")
    (drawn,) = draw(asked, tokenizer)
    assert len(drawn.sequences) == 3 and drawn.counts["refused_by_template"] <= 1
    with pytest.raises(InputError, match=r"3 different .*1 refused by template;.*assistant: too many turns") as refused:
        draw(job(f"calibration.dataset.path={path}", "calibration.num_samples=4"), tokenizer)
    assert "num_samples=3 or fewer" in refused.value.remedy and "chat_template.jinja" in refused.value.remedy


def test_a_mix_is_shared_by_weight(job, tokenizer, conversations) -> None:
    first = conversations(*(f"Question {n} of the first set?" for n in range(40)), name="a.jsonl")
    second = conversations(*(f"Question {n} of the other set?" for n in range(40)), name="b.jsonl")
    asked = job(
        f"calibration.dataset.path={first}",
        f"+calibration.mix.other.path={second}",
        "+calibration.mix.other.weight=0.5",
        "calibration.num_samples=30",
    )
    assert shares(asked.settings.calibration) == [20, 10]
    assert [len(drawn.sequences) for drawn in draw(asked, tokenizer)] == [20, 10]


def test_a_tokenizer_that_pads_by_itself_pads_nothing_here(job, tokenizer, tmp_path: Path) -> None:
    copy = tmp_path / "padding"
    shutil.copytree(CHECKPOINT, copy)
    content = json.loads((copy / "tokenizer.json").read_text())
    content["padding"] = {
        "strategy": {"Fixed": 256}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>",
    }  # fmt: skip
    content["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    (copy / "tokenizer.json").write_text(json.dumps(content))
    padding = AutoTokenizer.from_pretrained(copy)
    asked = job("calibration.num_samples=20")
    assert taken(draw(asked, padding)) == taken(draw(asked, tokenizer))


QWEN = ({"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"})


def test_the_thinking_switch_reaches_qwen3s_template(job, data_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "qwen3")
    seen = []
    template = tokenizer.apply_chat_template
    tokenizer.apply_chat_template = lambda *a, **k: seen.append(k) or template(*a, **k)
    for given in ("null", "false"):
        settings = job(f"calibration.enable_thinking={given}").settings.calibration
        encode(ChatTemplate(tokenizer, template_arguments(settings)), list(QWEN), settings)
    assert [call.get("enable_thinking") for call in seen] == [None, False]


def test_without_the_template_the_text_is_as_it_is(job, tokenizer) -> None:
    settings = job("calibration.apply_chat_template=false").settings.calibration
    assert tokenizer.decode(encode(ChatTemplate(tokenizer), list(QWEN), settings)).split() == [
        "What",
        "is",
        "2",
        "+",
        "2?",
        "4",
    ]


def test_real_conversations_are_drawn_and_cut(job, data_dir: Path) -> None:
    path = data_dir / "calibration" / "sharegpt_gpt4-qwen3_a22B_output.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "qwen3")
    asked = job(f"calibration.dataset.path={path}", "calibration.num_samples=200", "calibration.max_seq_length=256")
    (drawn,) = draw(asked, tokenizer)
    assert Counter(length == 256 for length in lengths_of([drawn]))[True] == drawn.counts["cut"] > 50


def test_plain_text_begins_as_the_server_begins_it_and_a_template_writes_its_own_bos(job) -> None:
    words = Tokenizer(models.WordLevel({"<s>": 0, "Hi": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="?")
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    for given in ("false", "true"):
        settings = job(f"calibration.apply_chat_template={given}").settings.calibration
        assert encode(ChatTemplate(tokenizer), [{"role": "user", "content": "Hi"}], settings) == [0, 1]


def test_any_number_of_a_mix_has_its_share_of_every_set() -> None:
    drawn = [Drawn(name, sequences=[[number, n] for n in range(count)]) for number, (name, count) in
             enumerate({"dataset": 40, "mix.a": 20, "mix.b": 20}.items())]  # fmt: skip
    order = interleaved(drawn, 0)
    for first in range(1, 81):
        taken = Counter(which for which, _ in order[:first])
        assert all(abs(taken[which] - first * share) <= 2 for which, share in enumerate((0.5, 0.25, 0.25)))
    assert sorted(order) == sorted(sequence for each in drawn for sequence in each.sequences)
    assert order == interleaved(drawn, 0) != interleaved(drawn, 1)
    # One set is stored in the order in which it was drawn.
    assert interleaved(drawn[:1], 0) == drawn[0].sequences


def test_a_set_with_no_share_of_the_samples_is_not_drawn_from(job, tokenizer, conversations) -> None:
    path = conversations(*(f"Question {n} of a small set?" for n in range(9)))
    asked = job("calibration.num_samples=8", f"+calibration.mix.few={{path: {path}, weight: 0.01}}")
    assert [len(drawn.sequences) for drawn in draw(asked, tokenizer)] == [8, 0]
