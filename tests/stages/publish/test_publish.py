"""The model card, the folder it lies in, and the upload by the hub's own client to an endpoint of ours."""

import base64
import json
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import validate_repo_id
from support.settings import settings_of
from support.synthetic_calibration import write_summary
from support.synthetic_results import STUDY, Run

from pipeline.config import Stage, Variant
from pipeline.errors import ConfigError, StageError
from pipeline.stages import publish
from pipeline.stages.publish.card import license_of, serve_lines
from pipeline.stages.publish.files import published
from pipeline.stages.publish.hub import repository

FEW = {name: STUDY[name] for name in ("bf16", "fp8_static", "int8_dynamic", "bf16+fp8_e4m3")}
ATTACK = "</script>|<img src=x>`*[a](b) \x1b[31m\n---\nlicense: mit"


@pytest.fixture(autouse=True)
def no_token(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))


def jobs_of(run, **settings):
    """The run's jobs with other settings of publish."""
    found = run.jobs
    for job in found:
        job.settings = job.settings.model_copy(update={"publish": job.settings.publish.model_copy(update=settings)})
    return found


def folder_of(run, name):
    return run.outputs / "tiny" / name / "publish"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("publish"), FEW)
    write_summary(run)
    jobs = jobs_of(run, repo_id="me/{model}-{variant}", base_model="Qwen/Qwen3-8B", license="apache-2.0")
    assert publish.make(jobs, {}) == {}
    return run


def test_the_folder_is_the_checkpoint_and_its_card(run):
    folder = folder_of(run, "fp8_static")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    checkpoint = run.job("fp8_static").checkpoint
    assert (folder / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    # The BF16 checkpoint is not made here, and not published again.
    assert not folder_of(run, "bf16").exists()
    assert folder_of(run, "bf16+fp8_e4m3").is_dir()


def test_metadata_is_what_the_hub_reads(run):
    data = ModelCard.load(folder_of(run, "fp8_static") / "README.md").data
    assert data.base_model == "Qwen/Qwen3-8B" and data.base_model_relation == "quantized"
    assert data.license == "apache-2.0" and data.pipeline_tag == "text-generation"
    assert data.quantization["scheme"] == "FP8" and "vllm" in data.tags
    scores = run.job("fp8_static").artifact(Stage.EVAL).manifest().results["tasks"]
    results = {result.dataset_name: result for result in data.eval_results}
    assert set(results) == set(scores)
    for label, result in results.items():
        assert result.metric_value == pytest.approx(scores[label]["value"], abs=1e-4)
        low, high = result.metric_args["interval_95"]
        assert low < result.metric_value < high and result.metric_args["items"] == scores[label]["n"]


def test_the_card_has_results_recipe_gate_calibration_and_the_command(run):
    text = (folder_of(run, "int8_dynamic") / "README.md").read_text()
    values = run.job("int8_dynamic").artifact(Stage.BENCH).manifest().results["metrics"]["total_token_throughput"]
    mean = sum(values["values"]) / len(values["values"])
    assert f"{mean:,.0f}" in text and "vllm serve me/tiny-int8_dynamic\n" in text
    assert "passed: loads in vLLM" in text and "needs no data" in text
    assert re.search(r"\| model.safetensors \| [\d,]+ \| [0-9a-f]{64} \|", text)
    static = (folder_of(run, "fp8_static") / "README.md").read_text()
    assert "Overlap with MMLU" in static and "emulates the format" in static
    assert (
        "vllm serve me/tiny-bf16-fp8_e4m3 --kv-cache-dtype fp8_e4m3"
        in (folder_of(run, "bf16+fp8_e4m3") / "README.md").read_text()
    )
    assert str(run.outputs) not in text + static


def test_what_was_not_measured_is_said(tmp_path):
    run = Run(tmp_path, {"bf16": STUDY["bf16"], "gptq": replace(STUDY["gptq"], missing={"bench": "failed: no server"})})
    assert publish.make(jobs_of(run), {}) == {}
    text = (folder_of(run, "gptq") / "README.md").read_text()
    assert "n/a: failed: no server" in text and "vllm serve YOUR-NAME/tiny-gptq" in text
    assert "base_model" not in ModelCard(text).data.to_dict()
    assert "dry run: 3 files" in run.shown.getvalue() and "publish.repo_id, which is not set" in run.shown.getvalue()


def test_a_variant_that_failed_the_gate_is_not_published(tmp_path):
    reasons = {"gptq": "failed: scales: a scale is NaN.", "w4a16": "needs Hopper."}
    variants = {"bf16": STUDY["bf16"], "awq": STUDY["awq"]}
    variants |= {name: replace(STUDY[name], missing={"verify": reason}) for name, reason in reasons.items()}
    run = Run(tmp_path, variants)
    failed = publish.make(run.jobs, {})
    assert isinstance(failed.pop("gptq"), StageError) and failed == {}
    assert not folder_of(run, "gptq").exists() and not folder_of(run, "w4a16").exists()
    # The others are, and what cannot be tried here is said and no failure.
    assert folder_of(run, "awq").is_dir() and "n/a publish: w4a16" in run.shown.getvalue()


def test_hostile_text_stays_in_its_cell(tmp_path):
    run = Run(tmp_path, {"bf16": STUDY["bf16"], "gptq": replace(STUDY["gptq"], text=ATTACK)}, titles={"gptq": ATTACK})
    assert publish.make(jobs_of(run, base_model="me/base"), {}) == {}
    text = (folder_of(run, "gptq") / "README.md").read_text()
    card = ModelCard(text)
    assert "\x1b" not in text and "<img" not in card.text and "<script" not in card.text
    # A line in a name is no line of the metadata.
    assert card.data.license is None and yaml.safe_load(str(card.data))["base_model"] == "me/base"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dry_run": False}, "publish.repo_id is not set"),
        ({"dry_run": False, "repo_id": "me/x"}, "would go to one repository"),
        ({"dry_run": False, "repo_id": "me/{variant}"}, "no token"),
        ({"repo_id": "me/{quant}"}, "{model} and {variant}"),
        ({"repo_id": "{variant}"}, "the owner is missing"),
        ({"repo_id": "me/{variant}/x"}, "repo_id=me/{variant}/x"),
        ({"repo_id": "me/{variant"}, "{model} and {variant}"),
    ],
)
def test_what_cannot_be_published_is_refused_before_work(run, settings, problem):
    with pytest.raises(ConfigError) as error:
        publish.check([job.settings for job in jobs_of(run, **settings)])
    assert problem in str(error.value)


def test_the_baseline_alone_is_nothing_to_publish(run):
    with pytest.raises(ConfigError, match="published already"):
        publish.check([run.job("bf16").settings])
    publish.check([job.settings for job in run.jobs])


def test_the_license_is_that_of_the_original(tmp_path):
    assert license_of(tmp_path) == {}
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    assert license_of(tmp_path) == {"license": "apache-2.0"}
    # One that the hub does not know has a name and a link, which the hub then needs.
    other = {"license": "other", "license_name": "qwen", "license_link": "LICENSE"}
    (tmp_path / "README.md").write_text(f"---\n{yaml.safe_dump(other)}---\n")
    assert license_of(tmp_path) == other
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert license_of(tmp_path) == {}


PRIVATE = (
    ".env",
    "training_args.bin",
    "optimizer.pt",
    "train.py",
    "notes.txt",
    "id_rsa",
    "wandb.json",
    "old.safetensors",
)
TERMS = ("LICENSE", "license.txt", "Notice", "USE_POLICY.md", "LICENCE-weights")


def test_a_named_list_of_files_is_published_and_the_terms_of_the_source(tmp_path):
    run = Run(tmp_path, FEW)
    jobs = jobs_of(run, repo_id="me/{variant}")
    source = tmp_path / "source"
    source.mkdir()
    for job in jobs:
        job.model.folder = job.model.shape_folder = source
        if not job.settings.is_baseline:
            index = {"weight_map": {"a": "model.safetensors"}}
            (job.checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
            (job.checkpoint / "tokenizer.json").write_text("{}")
            for name in PRIVATE:
                (job.checkpoint / name).write_text("HF_TOKEN=hf_planted")
    for name in TERMS:
        (source / name).write_text(f"the terms of {name}")
    assert publish.make(jobs, {}) == {}
    wanted = {"README.md", "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json", *TERMS}
    shown = run.shown.getvalue()
    for name in ("fp8_static", "bf16+fp8_e4m3"):
        assert {path.name for path in folder_of(run, name).iterdir()} == wanted
    assert all(name in shown for name in wanted) and not any(name in shown for name in PRIVATE)


def test_the_checkpoints_own_code_is_published_as_its_config_names_it(tmp_path):
    run = Run(tmp_path, {name: FEW[name] for name in ("bf16", "fp8_static")})
    jobs = jobs_of(run)
    folder = run.job("fp8_static").checkpoint
    classes = {"AutoModel": "modeling_mine.Mine", "AutoTokenizer": ["tok_mine.Slow", None], "AutoX": "o/r--far.X"}
    (folder / "config.json").write_text(json.dumps({"auto_map": {**classes, "AutoY": "../secret.Y"}}))
    (folder / "modeling_mine.py").write_text("from .parts import Part\n")
    for name in ("parts.py", "tok_mine.py", "train.py", "far.py"):
        (folder / name).write_text("")
    assert publish.make(jobs, {}) == {}
    code = {path.name for path in folder_of(run, "fp8_static").glob("*.py")}
    assert code == {"modeling_mine.py", "parts.py", "tok_mine.py"}


@pytest.mark.parametrize("where", ["checkpoint", "source"])
def test_a_link_out_of_the_model_is_not_followed_to_the_hub(tmp_path, where):
    run = Run(tmp_path, {name: FEW[name] for name in ("bf16", "fp8_static")})
    jobs = jobs_of(run)
    source, secret = tmp_path / "source", tmp_path / "id_rsa"
    source.mkdir()
    secret.write_text("a private key")
    for job in jobs:
        job.model.folder = job.model.shape_folder = source
    (source / "LICENSE").symlink_to(secret)
    if where == "checkpoint":
        # As `quantize` copies it: the text of what the link names.
        (run.job("fp8_static").checkpoint / "LICENSE").write_text("a private key")
    failed = publish.make(jobs, {})
    assert "LICENSE is a link to" in str(failed["fp8_static"]) and not folder_of(run, "fp8_static").exists()


def test_links_of_the_hubs_cache_are_its_own(tmp_path):
    snapshot, blobs = tmp_path / "models--me--x" / "snapshots" / "abc", tmp_path / "models--me--x" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "1234").write_text("the terms")
    (snapshot / "LICENSE").symlink_to("../../blobs/1234")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "LICENSE").symlink_to(snapshot / "LICENSE")
    (checkpoint / "model.gguf").write_text("weights")
    assert [path.name for path in published(checkpoint, (snapshot,))] == ["LICENSE", "model.gguf"]


def test_a_gguf_file_is_served_from_a_folder(run, tmp_path):
    (tmp_path / "model.gguf").touch()
    settings = jobs_of(run, repo_id="me/{variant}")[2].settings
    assert serve_lines(settings, tmp_path) == [
        "hf download me/int8_dynamic --local-dir int8_dynamic",
        "vllm serve int8_dynamic/model.gguf",
    ]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files needs."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.calls.append((self.path, body))
        if self.server.status != 200:
            return self.answer({"error": "no room"}, self.server.status)
        if self.path == "/api/repos/create":
            return self.answer({"url": f"{self.server.url}/me/made"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            return self.answer({"files": files})
        return self.answer({"commitUrl": f"{self.server.url}/me/made/commit/1", "commitOid": "1"})

    def answer(self, content, status=200):
        content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        if "/tree/" in self.path:
            return self.answer([{"type": "file", "path": name, "size": 1, "oid": "0"} for name in self.server.there])
        if self.path.startswith("/api/models/me/"):
            return self.answer({"id": "me/made", "private": self.server.private, "siblings": []})
        return self.answer({"error": "not found"}, 404)

    def do_HEAD(self):
        self.answer({"error": "not found"}, 404)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url, server.calls, server.status = f"http://127.0.0.1:{server.server_port}", [], 200
    server.private, server.there = True, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.shutdown()


def uploading(run):
    run.variants = {name: FEW[name] for name in ("bf16", "int8_dynamic")}
    jobs = jobs_of(run, repo_id="me/{variant}", dry_run=False)
    publish.check([job.settings for job in jobs])
    return publish.make(jobs, {})


def test_the_client_of_the_hub_uploads_it_all(run, hub):
    assert uploading(run) == {}
    created = next(json.loads(body) for path, body in hub.calls if path == "/api/repos/create")
    assert (created["name"], created["organization"]) == ("int8_dynamic", "me")
    assert created.get("private") or created.get("visibility") == "private"
    (commit,) = [body for path, body in hub.calls if "/commit/" in path]
    lines = [json.loads(line) for line in commit.splitlines()]
    sent = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
    assert set(sent) == {"README.md", "config.json", "model.safetensors"}
    weights = (run.job("int8_dynamic").checkpoint / "model.safetensors").read_bytes()
    assert base64.b64decode(sent["model.safetensors"]) == weights


def test_a_public_repository_is_not_called_private(run, hub):
    hub.private = False
    error = uploading(run)["int8_dynamic"]
    assert "me/int8_dynamic is there already, and public; nothing was uploaded" in str(error)
    assert not any("/commit/" in path for path, _ in hub.calls)
    assert "(private)" not in run.shown.getvalue().rpartition("upload me/")[2]


def test_stale_shards_are_removed_and_nothing_else(run, hub):
    stale = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    hub.there = [*stale, "model.safetensors", "theirs.gguf", "README.md", "notes.md"]
    assert uploading(run) == {}
    (commit,) = [body for path, body in hub.calls if "/commit/" in path]
    lines = [json.loads(line) for line in commit.splitlines()]
    assert {line["value"]["path"] for line in lines if line["key"] == "deletedFile"} == set(stale)
    assert "hf_test" not in run.shown.getvalue()


def test_a_hub_that_refuses_is_a_failure_with_the_way_out(run, hub):
    hub.status = 507
    error = uploading(run)["int8_dynamic"]
    assert isinstance(error, StageError) and "hf upload me/int8_dynamic" in str(error)
    assert folder_of(run, "int8_dynamic").is_dir()


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("bf16+fp8_e4m3@marlin", "me/bf16-fp8_e4m3-marlin"),
        ("w4a16(group_size=64)", "me/w4a16-group_size-64"),
        ("gptq(ignore=[lm_head,re:.*down_proj])", "me/gptq-ignore-lm_head-re-down_proj"),
    ],
)
def test_a_variants_repository_has_a_name_that_the_hub_permits(variant: str, name: str) -> None:
    settings = settings_of("quant=fp8_dynamic", "publish.repo_id='me/{variant}'")
    parsed = Variant.parse(variant)
    quant = settings.quant.model_copy(update={"name": parsed.quant})
    kv_cache = settings.kv_cache.model_copy(update={"name": parsed.kv_cache})
    serve = settings.serve.model_copy(update={"kernel": parsed.kernel})
    named = settings.model_copy(update={"quant": quant, "kv_cache": kv_cache, "serve": serve})
    assert repository(named) == name
    validate_repo_id(name)


def test_a_cast_of_the_weights_and_a_check_that_was_not_run_are_said(tmp_path):
    run = Run(tmp_path, {"bf16": STUDY["bf16"], "gptq": STUDY["gptq"]})
    path = run.job("gptq").artifact(Stage.QUANTIZE).folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["results"]["cast_from"] = "float32"
    path.write_text(json.dumps(manifest))
    assert publish.make(jobs_of(run), {}) == {}
    text = (folder_of(run, "gptq") / "README.md").read_text()
    assert "| source weights | float32, cast to BF16 first |" in text
    assert "not compared: weights, not known here" in text and "failed: weights" not in text


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[]", b"\xff".decode("latin-1")])
def test_a_config_that_cannot_be_read_stops_no_other_variant(tmp_path, content):
    run = Run(tmp_path, FEW)
    jobs = jobs_of(run)
    (run.job("fp8_static").checkpoint / "processor_config.json").write_text(content, encoding="latin-1")
    failed = publish.make(jobs, {})
    assert list(failed) == ["fp8_static"] and "processor_config.json" in str(failed["fp8_static"])
    assert folder_of(run, "int8_dynamic").is_dir()


FIELDS = (
    "license: apache-2.0",
    "1: 2",
    "ignore_metadata_errors: true",
    "eval_results: 5",
    "model-index: [{name: x, results: [{}]}]",
    "model-index: {a: b}",
    "license: {a: b}",
    "created: 9999-99-99",
    "x: &a [*a]",
    "x: " + "[" * 5000,
    "? [1]\n: 2",
    "x: !!python/object/apply:os.system [true]",
)


@pytest.mark.parametrize("field", FIELDS)
def test_a_card_of_others_names_a_licence_or_none(tmp_path, field):
    (tmp_path / "README.md").write_text(f"---\n{field}\n---\n# A model\n")
    assert license_of(tmp_path) in ({}, {"license": "apache-2.0"})
