"""From the hub only the checkpoint's own files are fetched, and none of its weights before the preflight."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects
from support.tiny_sources import CONFIG, tensors_of, write_header, write_index, write_source

from pipeline.artifacts.keys import Digests
from pipeline.config import Settings, Stage
from pipeline.errors import InputError
from pipeline.models import preflight
from pipeline.models.safetensors import terms
from pipeline.models.source import ModelSource
from pipeline.stages.publish.card import license_of

WHOLE = tensors_of(CONFIG)
HALVES = {"model-00001-of-00002.safetensors": list(WHOLE)[:9], "model-00002-of-00002.safetensors": list(WHOLE)[9:]}


class Hub:
    """A repository in a folder, and the names of the files that were fetched of it."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache = repository, cache
        self.fetched: set[str] = set()

    def list_repo_files(self, *_: Any, **__: Any) -> list[str]:
        return [path.relative_to(self.repository).as_posix() for path in self.repository.rglob("*") if path.is_file()]

    def snapshot_download(
        self, _: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: str
    ) -> str:
        for name in filter_repo_objects(
            self.list_repo_files(), allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            self.fetched.add(name)
            (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.repository / name, self.cache / name)
        return str(self.cache)

    @property
    def weights(self) -> set[str]:
        return {name for name in self.fetched if name.endswith((".safetensors", ".bin", ".pth", ".gguf"))}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(write_source(tmp_path / "repository"), tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    return found


def ask(tmp_path: Path, settings: Callable[..., Settings]) -> ModelSource:
    asked = settings("model.path=null", "model.hub_id=some/model", "model.revision=abc")
    source = ModelSource(asked.model, tmp_path / "cache", Digests(tmp_path / "digests.json"))
    preflight.check(source, asked, frozenset(Stage))
    return source


def test_a_branch_is_the_commit_that_it_was_fetched_at(
    hub: Hub, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    commits = []
    for hub.cache in (tmp_path / "snapshots" / ("a" * 40), tmp_path / "snapshots" / ("b" * 40)):
        commits.append(ask(tmp_path, settings).identity()["revision"])
    assert commits == ["a" * 40, "b" * 40]


def test_one_set_of_weights_is_fetched(hub: Hub, tmp_path: Path, settings: Callable[..., Settings]) -> None:
    for other in ("consolidated.safetensors", "original/model.safetensors", "onnx/tokenizer.json", "pytorch_model.bin"):
        (hub.repository / other).parent.mkdir(exist_ok=True)
        write_header(hub.repository / other, WHOLE)
    (hub.repository / "modeling_mine.py").write_text("")
    source = ask(tmp_path, settings)
    assert hub.weights == set()
    _ = source.folder
    assert hub.weights == {"model.safetensors"}
    assert "modeling_mine.py" in hub.fetched
    assert "onnx/tokenizer.json" not in hub.fetched
    assert source.identity() == {"hub_id": "some/model", "revision": "abc"}


TERMS = ("LICENSE", "license.md", "Notice.txt", "USE_POLICY.md", "Licence", "README.md")


def test_the_terms_are_fetched_however_they_are_spelled(
    hub: Hub, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    for name in (*TERMS, "original/LICENSE", ".env", "training_args.bin"):
        (hub.repository / name).parent.mkdir(exist_ok=True)
        (hub.repository / name).write_text("---\nlicense: apache-2.0\n---\n")
    folder = ask(tmp_path, settings).folder
    assert {name for name in hub.fetched if "LICEN" in name.upper() or name in TERMS} == set(TERMS)
    assert not hub.fetched & {".env", "training_args.bin"}
    assert license_of(folder) == {"license": "apache-2.0"}
    assert {path.name for path in terms(folder)} == set(TERMS) - {"README.md"}


@pytest.mark.parametrize(
    "name", ["../../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x.safetensors\n"]
)
def test_an_index_cannot_name_a_file_outside_its_folder(
    hub: Hub, tmp_path: Path, settings: Callable[..., Settings], name: str
) -> None:
    write_header(tmp_path / "secret.safetensors", WHOLE)
    (hub.repository / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(WHOLE, name)}
    (hub.repository / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="which is no safetensors file of that folder"):
        _ = ask(tmp_path, settings).folder
    assert hub.weights == set()


def test_the_shards_of_the_index_are_fetched(hub: Hub, tmp_path: Path, settings: Callable[..., Settings]) -> None:
    (hub.repository / "model.safetensors").unlink()
    write_index(hub.repository, {shard: {name: WHOLE[name] for name in part} for shard, part in HALVES.items()})
    write_header(hub.repository / "model-00003-of-00007.safetensors", WHOLE)
    source = ask(tmp_path, settings)
    assert source.folder == hub.cache
    assert hub.weights == set(HALVES)


def test_layers_that_the_index_lacks_are_refused_before_the_weights(
    hub: Hub, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    few = {name: each for name, each in WHOLE.items() if ".layers.1." not in name}
    write_index(hub.repository, {"model.safetensors": few})
    with pytest.raises(InputError, match=r"model.hub_id=some/model: .*num_hidden_layers=2.*model.layers.1 first"):
        ask(tmp_path, settings)
    assert not hub.weights


def test_pickled_weights_are_refused_before_they_are_fetched(
    hub: Hub, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    (hub.repository / "model.safetensors").rename(hub.repository / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"model.hub_id=some/model has pickled weights only"):
        ask(tmp_path, settings)
    assert not hub.weights


def test_what_headers_alone_show_is_refused_after_the_download(
    hub: Hub, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    write_header(hub.repository / "model.safetensors", {**WHOLE, "a.weight_scale_inv": ("F32", (1, 1))})
    source = ask(tmp_path, settings)
    with pytest.raises(InputError, match=r"model.hub_id=some/model is quantized already \(fp8 in blocks"):
        _ = source.folder


def test_a_float16_model_is_cast_after_the_download(
    hub: Hub, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    write_source(hub.repository, tensors_of(CONFIG, "F16"), dtype="float16")
    source = ask(tmp_path, settings)
    assert "config.json names float16: cast to BF16" in source.note
    before = source.identity()
    assert before["cast_from"] == "float16"
    assert source.folder != hub.cache
    assert source.identity() == before
    assert source.cast_from == "float16"


@pytest.mark.parametrize("weights", [True, False])
def test_offline_a_cache_without_a_list_of_files_is_read(
    weights: bool, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Callable[..., Settings]
) -> None:
    """A cache that was copied, or filled by an earlier client, lacks what today's asks for first."""
    if not weights:
        (hub.repository / "model.safetensors").rename(tmp_path / "elsewhere")

    def offline(_: str, *, revision: str | None, local_files_only: bool = False, **__: Any) -> str:
        if not local_files_only:
            raise ConnectionError("no list")
        return str(hub.repository)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setattr(hub, "list_repo_files", lambda *_, **__: ["model.safetensors"])
    found = ModelSource(
        settings("model.path=null", "model.hub_id=some/model").model, tmp_path, Digests(tmp_path / "digests.json")
    )
    assert found.shape_folder == hub.repository
    if weights:
        assert found.stored == hub.repository
    else:
        with pytest.raises(InputError, match="could not be fetched"):
            _ = found.stored
