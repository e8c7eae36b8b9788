"""Sets of conversations, local or on the hub: what there is not is refused by name."""

from pathlib import Path

import pytest

from pipeline.config import CalibrationSet, DatasetSettings
from pipeline.errors import InputError
from pipeline.tasks.conversation_rows import read_row
from pipeline.tasks.conversations import local_file, read_conversations, rows_of

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_a_file_without_a_conversation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text('[{"id": 1}]')
    with pytest.raises(InputError, match="1 rows, but none is a conversation"):
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
    assert [read_row(row).conversation for row in rows] == [TURNS] * 5


def test_a_split_that_there_is_not_is_refused_by_name(hub_like: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(InputError, match=r"has no such part: .*train_gen.*train_sft"):
        rows_of(CalibrationSet(hub_id=str(hub_like), split="train_gen"), "calibration.dataset")
