"""One folder of local data in place of every set of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.settings import command_of

from pipeline.config import Settings
from pipeline.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("mmlu", "gsm8k"):
        (tmp_path / name).mkdir()
    for name in ("calibration.jsonl", "conversations.parquet.gz"):
        (tmp_path / name).touch()
    return tmp_path


def of(*words: str) -> Settings:
    (found,) = command_of("quant=bf16", *words)
    return found


def sources(found: Settings) -> list[Path | str | None]:
    """The sources of calibration, load, divergence and tasks."""
    assert found.eval.divergence is not None
    sets = (found.calibration.dataset, found.bench.dataset, found.eval.divergence.dataset)
    return [*(each.path or each.hub_id for each in sets), found.eval.data_dir]


@pytest.mark.parametrize("model", ["model=/data/mine", "model=some/model", "model=qwen3_8b", "model=demo"])
def test_a_folder_names_all_data(folder: Path, model: str) -> None:
    conversations = folder / "conversations.parquet.gz"
    found = of(model, f"data_dir={folder}")
    assert sources(found) == [folder / "calibration.jsonl", conversations, conversations, folder]
    assert found.bench.dataset.hub_id is None and found.calibration.dataset.revision is None


def test_a_folder_with_spaces_and_in_the_users_home_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    place = folder.rename(folder.with_name("my data, [all]"))
    assert of("data_dir=~/my data, [all]").eval.data_dir == place


def test_what_the_folder_lacks_stays_the_hubs(folder: Path) -> None:
    hub = sources(of("model=some/model"))
    (folder / "calibration.jsonl").unlink()
    assert sources(of("model=some/model", f"data_dir={folder}"))[0] == hub[0]
    for name in ("mmlu", "gsm8k"):
        (folder / name).rmdir()
    found = sources(of("model=some/model", f"data_dir={folder}"))
    assert (found[0], found[3]) == (hub[0], hub[3]) and found[1] != hub[1]


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_setting_of_its_own_goes_before_the_folder(folder: Path, place: str) -> None:
    words = [
        "calibration.dataset.hub_id=some/set",
        "calibration.dataset.split=train",
        "bench.dataset.path=/data/x.json",
    ]
    words.insert(0 if place == "before" else len(words), f"data_dir={folder}")
    found = sources(of("model=some/model", *words))
    assert found[:2] == ["some/set", Path("/data/x.json")] and found[3] == folder


def test_a_folder_that_answers_for_nothing_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    for wrong, fault in (("/nowhere", "there is no such folder"), (empty, "nothing in it is read")):
        with pytest.raises(ConfigError, match=f"data_dir={wrong}: {fault}.*conversations.jsonl .*mmlu, ceval"):
            of(f"data_dir={wrong}")
    (folder / "calibration.csv").touch()
    with pytest.raises(ConfigError, match="calibration.csv and calibration.jsonl are one set"):
        of(f"data_dir={folder}")
