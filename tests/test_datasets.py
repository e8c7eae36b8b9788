"""Conversations are read in the formats people have; a file that holds none is refused by name."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import DatasetSettings
from pipeline.datasets import local_file, read_conversations
from pipeline.errors import InputError

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"messages": TURNS},
        {"prompt": "Hi", "response": "Hello"},
    ],
    ids=["sharegpt", "openai", "prompt-response"],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_formats(tmp_path: Path, row: dict, suffix: str) -> None:
    path = tmp_path / f"set{suffix}"
    path.write_text(json.dumps([row]) if suffix == ".json" else json.dumps(row) + "\n")
    assert read_conversations(path) == [TURNS]


def test_plain_text_is_one_user_turn_a_line(tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    path.write_text("one\n\ntwo\n")
    assert [c[0]["content"] for c in read_conversations(path)] == ["one", "two"]


# U+2028 ends a line for str.splitlines() and not in JSON Lines.
@given(texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_any_text_survives_json_lines(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("set") / "set.jsonl"
    rows = [json.dumps({"prompt": text + "\u2028x"}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(rows), encoding="utf-8", newline="")
    assert [c[0]["content"] for c in read_conversations(path)] == [text + "\u2028x" for text in texts]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("{not json", "not valid JSON"),
        ('[{"id": 1}]', "no conversation"),
        ("[]", "no conversation"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(InputError, match=named):
        read_conversations(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"calibration.dataset.path=.*no such file"):
        local_file(DatasetSettings(path=tmp_path / "nowhere.json"), "calibration.dataset")


@pytest.mark.parametrize(
    ("name", "count"),
    [("calibration/sharegpt_gpt4-qwen3_a22B_output.jsonl", 256), ("sharegpt/sharegpt_gpt4_256.jsonl", 256)],
)
def test_real_sets_are_read_whole(name: str, count: int, data_dir: Path) -> None:
    assert len(read_conversations(data_dir / name)) == count
