"""Conversations are read in the formats people have; a file that holds none is refused by name."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import CalibrationSet, DatasetSettings
from pipeline.errors import InputError
from pipeline.tasks.conversations import conversation_of, local_file, read_conversations, rows_of

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
        ('[{"id": 1}]', "none is a conversation"),
        ("[]", "empty"),
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


def test_columns_are_mapped_to_what_they_mean() -> None:
    row = {"instruction": "Hi", "output": "Hello", "id": 7}
    assert conversation_of(row, {"prompt": "instruction", "response": "output"}) == TURNS
    assert conversation_of({"body": "Hi"}, {"text": "body"}) == TURNS[:1]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"question": "Hi", "answer": "Hello"}\n')
    with pytest.raises(InputError, match=r"calibration.dataset.columns names ask: .* have question, answer"):
        rows_of(CalibrationSet(path=path, columns={"prompt": "ask"}), "calibration.dataset")


@pytest.fixture
def hub_like(tmp_path: Path) -> Path:
    """A data set laid out as on the hub, with a split of Parquet files; `datasets` loads it by its folder."""
    import datasets

    folder = tmp_path / "team" / "dialogues"
    rows = [{"messages": TURNS, "prompt_id": str(number)} for number in range(5)]
    (folder / "data").mkdir(parents=True)
    datasets.Dataset.from_list(rows).to_parquet(folder / "data" / "train_sft-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train_sft\n    path: data/train_sft-*\n---\n"
    )
    return folder


def test_a_split_of_a_hub_data_set_is_read(hub_like: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = rows_of(CalibrationSet(hub_id=str(hub_like), split="train_sft"), "calibration.dataset")
    assert [conversation_of(row) for row in rows] == [TURNS] * 5


def test_a_split_that_there_is_not_is_refused_by_name(hub_like: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(InputError, match=r"has no such part: .*train_gen.*train_sft"):
        rows_of(CalibrationSet(hub_id=str(hub_like), split="train_gen"), "calibration.dataset")
