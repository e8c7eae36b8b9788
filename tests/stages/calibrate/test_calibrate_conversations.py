"""Which conversations are taken, and that the model sees them as its deployment would: whole, templated, unpadded."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipeline.demo import CHECKPOINT
from pipeline.errors import InputError
from pipeline.stages.calibrate.conversations import Drawn, draw, encode, lengths_of, shares


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
    assert drawn.too_long >= 1
    (cut,) = draw(job(f"calibration.dataset.path={path}", *limits, "calibration.num_samples=11",
                      "calibration.min_seq_length=1"), tokenizer)  # fmt: skip
    assert cut.cut >= 1
    assert max(lengths_of([cut])) == 80


def test_what_exceeds_the_context_is_refused_by_name(job, tokenizer, conversations) -> None:
    path = conversations("word " * 5000)
    asked = job(f"calibration.dataset.path={path}", "calibration.num_samples=1", "calibration.max_seq_length=9000")
    with pytest.raises(
        InputError, match=r"max_seq_length=9000: row 0 has [\d,]+ tokens, the model's context holds 2,048"
    ):
        draw(asked, tokenizer)


def test_a_template_that_fails_is_named(job) -> None:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(InputError, match="chat template fails on a conversation of the turns user: no system turns"):
        encode(tokenizer, [{"role": "user", "content": "Hi"}], job().settings.calibration)


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
        encode(tokenizer, list(QWEN), job(f"calibration.enable_thinking={given}").settings.calibration)
    assert [call.get("enable_thinking") for call in seen] == [None, False]


def test_without_the_template_the_text_is_as_it_is(job, tokenizer) -> None:
    settings = job("calibration.apply_chat_template=false").settings.calibration
    assert tokenizer.decode(encode(tokenizer, list(QWEN), settings)).split() == ["What", "is", "2", "+", "2?", "4"]


def test_real_conversations_are_drawn_and_cut(job, data_dir: Path) -> None:
    path = data_dir / "calibration" / "sharegpt_gpt4-qwen3_a22B_output.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(data_dir / "qwen3")
    asked = job(f"calibration.dataset.path={path}", "calibration.num_samples=200", "calibration.max_seq_length=256")
    (drawn,) = draw(asked, tokenizer)
    assert Counter(length == 256 for length in lengths_of([drawn]))[True] == drawn.cut > 50
