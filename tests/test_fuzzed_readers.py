"""Readers of files that others write succeed or refuse in the project's words, whatever the file holds."""

import csv
import gzip
import io
import json
import math
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fuzzed import BROKEN, changed, damaged, json_files
from support.settings import settings_of
from support.tiny_sources import CONFIG, tensors_of

from pipeline.artifacts.keys import Digests, key_of
from pipeline.artifacts.manifest import Manifest, read_manifest
from pipeline.artifacts.workspace import Workspace
from pipeline.config import ModelSettings, Stage
from pipeline.errors import PipelineError, ServerError
from pipeline.models import generation, headers, preflight, safetensors, tokens
from pipeline.models.source import ModelSource
from pipeline.results import base
from pipeline.results.bench import BenchResult
from pipeline.results.calibration import read_summary
from pipeline.results.eval import EvalResult
from pipeline.results.quantize import QuantizeResult
from pipeline.results.verify import VerifyResult
from pipeline.serve import access, counters, external
from pipeline.stages.eval import endpoint
from pipeline.stages.eval.journal import Journal
from pipeline.stages.publish.card import license_of
from pipeline.stages.report.collect import past_runs, records
from pipeline.tasks import conversation_files, conversation_rows, local_files

# How many documents each reader gets: few in `make test`, many in `make reliability`.
EXAMPLES = int(os.environ.get("PIPELINE_FUZZ_EXAMPLES", "60"))
fuzzed = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
# Bytes that reading a document of some kilobytes may take.
BOUND = 50 << 20


def read(reader: Callable[[], Any]) -> Any:
    """Return what a reader returns; None if it refuses. Anything else that it raises is a fault."""
    tracemalloc.start()
    try:
        return reader()
    except PipelineError as error:
        assert str(error)
        return None
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < BOUND


def safetensors_file(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(64)


HEADER = {
    "__metadata__": {"format": "pt"},
    "model.norm.weight": {"dtype": "BF16", "shape": [16], "data_offsets": [0, 32]},
    "lm_head.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [32, 64]},
}


@fuzzed
@given(
    content=st.one_of(
        json_files(HEADER).map(safetensors_file),
        st.builds(safetensors_file, st.just(json.dumps(HEADER).encode()), st.integers(0, 2**64 - 1)),
        damaged(safetensors_file(json.dumps(HEADER).encode())),
    ),
    index=st.none() | json_files({"weight_map": {"a": "model.safetensors", "b": "other.safetensors"}}),
)
def test_safetensors_headers_and_indexes(tmp_path: Path, content: bytes, index: bytes | None) -> None:
    (tmp_path / safetensors.MODEL).write_bytes(content)
    (tmp_path / safetensors.INDEX).unlink(missing_ok=True)
    if index is not None:
        (tmp_path / safetensors.INDEX).write_bytes(index)
    read(lambda: safetensors.check_safetensors(tmp_path / safetensors.MODEL))
    names = read(lambda: safetensors.read_index(tmp_path)) or {}
    assert all((tmp_path / name).resolve().is_relative_to(tmp_path.resolve()) for name in names.values())
    infos = read(lambda: safetensors.tensor_infos(tmp_path))
    for info in (infos or {}).values():
        assert isinstance(info["dtype"], str) and all(size >= 0 for size in info["shape"])


@fuzzed
@given(config=json_files(CONFIG) | json_files({"text_config": CONFIG, "architectures": CONFIG["architectures"]}))
def test_configs(tmp_path: Path, config: bytes) -> None:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    if not (folder / safetensors.MODEL).exists():
        write_source(folder)
    (folder / "config.json").write_bytes(config)
    asked = settings_of("quant=w4a16")
    model = asked.model.model_copy(update={"path": folder})
    asked = asked.model_copy(update={"model": model})
    digests = Digests(tmp_path / "digests.json")
    read(lambda: preflight.check(ModelSource(model, tmp_path / "cache", digests), asked, frozenset(Stage)))


def write_source(folder: Path) -> None:
    from support import tiny_sources

    tiny_sources.write_source(folder)


@fuzzed
@given(content=json_files({"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}))
def test_generation_configs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / generation.FILE).write_bytes(content)
    read(lambda: generation.named(tmp_path))


TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"], "b a"]},
    "added_tokens": [{"content": "<s>", "id": 2}],
}


@fuzzed
@given(content=json_files(TOKENIZER))
def test_tokenizers(tmp_path: Path, content: bytes) -> None:
    for name in ("mine", "yours"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "mine" / "tokenizer.json").write_bytes(content)
    (tmp_path / "yours" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    read(lambda: tokens.first_difference(tmp_path / "mine", tmp_path / "yours"))


ROWS = [
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    {"instruction": "Add", "input": "1 2", "output": "3"},
    {"prompt": "x", "completion": "y"},
]


@fuzzed
@given(
    content=st.one_of(
        json_files(ROWS),
        json_files({"data": ROWS}),
        st.lists(changed(ROWS[0]).map(lambda row: json.dumps(row).encode()), max_size=4).map(b"\n".join),
        st.binary(max_size=200),
    ),
    name=st.sampled_from(["a.json", "a.jsonl", "a.csv", "a.txt", "a.parquet", "a.json.gz", "a"]),
)
def test_conversations(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") and len(content) % 2 else content)
    for row in read(lambda: conversation_files.read_rows(path)) or []:
        for turn in read(lambda row=row: conversation_rows.read_row(row)).conversation:
            turn["content"].encode()
            assert turn["role"] in ("user", "assistant", "system")


def test_a_file_that_unpacks_to_more_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_files, "MAX_BYTES", 1 << 20)
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b"[" + b" " * (256 << 20)))
    assert read(lambda: conversation_files.read_rows(path)) is None


def csv_of(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


TASKS = {
    "mmlu": csv_of([["What?", "a", "b", "c", "d", "A"]]),
    "ceval": csv_of([["id", "question", "A", "B", "C", "D", "answer"], ["0", "What?", "a", "b", "c", "d", "B"]]),
    "gsm8k": b'{"question": "1+1?", "answer": "#### 2"}\n',
    "humaneval": json.dumps(
        dict.fromkeys(("task_id", "prompt", "canonical_solution", "test", "entry_point"), "x")
    ).encode(),
}
PLACES = {
    "mmlu": ("mmlu/{}/x_{}.csv", ("test", "dev"), "cais/mmlu"),
    "ceval": ("ceval/{}/x_{}.csv", ("val", "dev"), "ceval/ceval-exam"),
    "gsm8k": ("gsm8k/{}.jsonl", ("train", "test"), "openai/gsm8k"),
    "humaneval": ("humaneval/HumanEval.jsonl", ("",), "openai/openai_humaneval"),
}
LONG = b'"' + b"x" * 200_000 + b'",b\n'


@pytest.mark.parametrize("task", TASKS)
@fuzzed
@given(data=st.data())
def test_task_files(tmp_path: Path, task: str, data: st.DataObject) -> None:
    pattern, splits, hub = PLACES[task]
    content = data.draw(damaged(TASKS[task]) | BROKEN | st.binary(max_size=100) | st.just(LONG))
    for split in splits:
        path = tmp_path / pattern.format(split, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    read(lambda: local_files.READERS[hub](tmp_path, "x"))


MANIFEST = {
    "schema_version": 1,
    "stage": "eval",
    "model": "demo",
    "variant": "awq",
    "status": "ok",
    "key": "0" * 64,
    "payload": {},
    "started": "2026-01-01T00:00:00",
    "seconds": 1.0,
    "results": {"schema_version": 1, "tasks": {"mmlu": {"score": 0.5}}, "server": {}, "completed": 3, "loads": []},
    "files": {"samples/mmlu.jsonl": {"size": 1, "sha256": "0"}},
}
FILE = {"size": 1, "sha256": "0"}
NAMES = st.lists(st.sampled_from(["..", ".", "a", "", "\0"]) | st.text(max_size=3), max_size=5).map("/".join)


@fuzzed
@given(content=json_files(MANIFEST) | NAMES.map(lambda name: json.dumps(MANIFEST | {"files": {name: FILE}}).encode()))
def test_manifests_and_results(tmp_path: Path, content: bytes) -> None:
    workspace = Workspace(tmp_path)
    artifact = workspace.artifact("eval", "demo", "awq", {})
    artifact.folder.mkdir(parents=True, exist_ok=True)
    (artifact.folder / "manifest.json").write_bytes(content)
    read(lambda: workspace.why(artifact))
    manifest = read(lambda: read_manifest(artifact.folder))
    if manifest is not None:
        assert key_of(manifest.payload)
        for name in manifest.files:
            assert Path(os.path.normpath(artifact.folder / name)).is_relative_to(artifact.folder)
        for kind in (QuantizeResult, VerifyResult, BenchResult, EvalResult):
            read(lambda kind=kind: base.read(kind, manifest))


SAMPLE = {"doc_hash": "0", "score": 1.0, "options": ["a", "b"], "unfinished": False}


@fuzzed
@given(content=json_files(SAMPLE))
def test_samples_summaries_journals_and_reports(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "samples").mkdir(exist_ok=True)
    for name in ("samples/mmlu.jsonl", "summary.json", "report.json", "answers.jsonl"):
        (tmp_path / name).write_bytes(content)
    manifest = Manifest.model_validate(MANIFEST)
    read(lambda: records.samples_of(manifest, tmp_path, "mmlu"))
    read(lambda: read_summary(tmp_path))
    read(lambda: past_runs.read("report.baseline", tmp_path / "report.json", "demo"))
    journal = read(lambda: Journal(tmp_path / "answers.jsonl"))
    journal.recall({"prompt": "x"})
    journal.close()


QUANTIZED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 64}}},
    "ignore": ["lm_head", "re:.*gate"],
}
OTHERS = [
    {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "dynamic": {"-:^lm_head$": {}}},
    {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": ["lm_head"]},
]


@fuzzed
@given(config=st.one_of(changed(QUANTIZED), *map(changed, OTHERS)))
def test_settings_of_quantized_checkpoints(config: Any) -> None:
    if isinstance(config, dict):
        read(lambda: headers.check_quantization(config, "variants=theirs"))


CARD = b"---\nlicense: other\nlicense_name: mine\nmodel-index:\n- name: x\n  results: []\n---\n# A model\n"


@fuzzed
@given(content=damaged(CARD) | BROKEN)
def test_cards_of_models(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "README.md").write_bytes(content)
    assert all(isinstance(value, str) for value in read(lambda: license_of(tmp_path)).values())


METRICS = b"""# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total{engine="0",model_name="x"} 5.0
vllm:num_preemptions_total{engine="1",model_name="x"} 1e308
vllm:kv_cache_usage_perc{engine="0"} 0.5
process_start_time_seconds 1.7e+09
"""


@fuzzed
@given(
    models=json_files({"data": [{"id": "theirs", "max_model_len": 4096}]}),
    version=json_files({"version": "0.32.0"}),
    metrics=damaged(METRICS) | BROKEN,
)
def test_what_a_server_says_of_itself(
    monkeypatch: pytest.MonkeyPatch, models: bytes, version: bytes, metrics: bytes
) -> None:
    said = {"/v1/models": models, "/version": version, "/metrics": metrics}

    def get(_: str, path: str, *__: object, **___: object) -> access.Answer:
        return access.Answer(200, said[path].decode(errors="replace"))

    monkeypatch.setattr(access, "get", get)
    reading = read(lambda: counters.read("http://127.0.0.1:1"))
    assert reading is None or all(map(math.isfinite, reading.values.values()))
    told = read(lambda: external.ask("http://127.0.0.1:1"))
    assert told is None or key_of(told.model_dump())


ANSWER = {"choices": [{"index": 0, "text": "a", "logprobs": None}, {"index": 1, "text": "b", "finish_reason": "stop"}]}


@fuzzed
@given(content=json_files(ANSWER))
def test_answers_of_a_server(content: bytes) -> None:
    choices = read(lambda: endpoint._choices(httpx.Response(200, content=content).text))
    assert choices is None or all(int(choice["index"]) is not None for choice in choices)


def test_a_server_that_answers_garbage_is_asked_again_and_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [b"<html>", b'{"choices": []}', json.dumps({"choices": ANSWER["choices"][:1]}).encode()]
    sent = iter([*answers, *[b"nonsense"] * endpoint.ATTEMPTS])

    async def post(*_: object, **__: object) -> httpx.Response:
        return httpx.Response(200, content=next(sent))

    monkeypatch.setattr(httpx.AsyncClient, "post", post)
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.0)
    client = endpoint.Endpoint("http://127.0.0.1:1", "model", 1, lambda: None)
    arrived: list[object] = []
    client.complete([{"prompt": "x"}], lambda _, choice: choice["text"], lambda _, text: arrived.append(text))
    assert arrived == ["a"]
    with pytest.raises(ServerError, match="no completion of 1 prompts: nonsense"):
        client.complete([{"prompt": "x"}], lambda _, choice: choice["text"], lambda _, text: arrived.append(text))


def test_the_model_of_these_tests_is_taken(tmp_path: Path) -> None:
    """What they break passes the preflight as long as it is whole."""
    write_source(tmp_path / "model")
    assert tensors_of(CONFIG)
    source = ModelSource(ModelSettings(name="x", path=tmp_path / "model"), tmp_path / "cache", Digests(tmp_path / "d"))
    assert source.config["architectures"]
