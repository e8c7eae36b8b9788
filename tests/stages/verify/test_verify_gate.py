"""The gate lets a good checkpoint through and names what is wrong with a bad one."""

import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.demo import CHECKPOINT
from pipeline.errors import InputError, MissingTensor, ServerError, StageError, UnknownFormat
from pipeline.hardware.probe import probe
from pipeline.models import headers as disk
from pipeline.results.server import ServerFacts
from pipeline.results.verify import CanaryAnswers, WeightError
from pipeline.stages.verify import file_sizes, gate


class Asked:
    """The part of a job that the checks read."""

    unserved = ""

    def __init__(self, settings, checkpoint: Path | None = None) -> None:
        self.settings = settings
        self.hardware = probe(settings.hardware.device)
        self.model = SimpleNamespace(folder=CHECKPOINT)
        self.checkpoint = checkpoint
        self.variant = settings.quant.name
        self.progress = SimpleNamespace(detail=lambda text: None)

    def server(self):
        return SimpleNamespace(facts=dict)


@pytest.fixture(scope="module")
def good(checkpoint) -> Path:
    """A W4A16 checkpoint of the demo."""
    return checkpoint("w4a16")


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.copytree(good, folder)
    return folder


def edit(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_good_checkpoint_passes(good: Path, settings) -> None:
    job = Asked(settings("quant=w4a16"))
    assert "unchanged" in gate.files(good, CHECKPOINT)
    assert "28 of 28" in gate.layers(good, CHECKPOINT, job)
    assert "finite and in range" in gate.scales(good)
    assert disk.weight_bytes(good) < 0.5 * disk.weight_bytes(CHECKPOINT)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_bad_scale_is_named(copy: Path, value: float) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.2.mlp.up_proj.weight_scale"][3, 0] = value

    edit(copy, change)
    with pytest.raises(gate.Failed, match=r"layers\.2\.mlp\.up_proj"):
        gate.scales(copy)


def test_a_parameter_of_the_model_is_no_scale_of_its_format(copy: Path) -> None:
    """Gemma 3n's may be negative."""
    edit(copy, lambda tensors: tensors.update({"model.layers.0.altup.correct_output_scale": -torch.ones(4)}))
    gate.scales(copy)


def test_mxfp4s_code_of_no_number_is_named_and_blocks_of_zeros_are_not(checkpoint, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("mxfp4"), tmp_path / "checkpoint")
    name = "model.layers.1.self_attn.k_proj.weight_scale"
    assert not load_file(folder / "model.safetensors")[name].all()
    assert "in range" in gate.scales(folder)
    edit(folder, lambda tensors: tensors[name][0, :1].fill_(255))
    with pytest.raises(gate.Failed, match=name):
        gate.scales(folder)


def test_a_layer_left_in_bf16_is_named(copy: Path, settings) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = "model.layers.1.self_attn.o_proj"
        for part in [key for key in tensors if key.startswith(name)]:
            del tensors[part]
        tensors[f"{name}.weight"] = load_file(CHECKPOINT / "model.safetensors")[f"{name}.weight"]

    edit(copy, change)
    with pytest.raises(gate.Failed, match=r"not quantized.*layers\.1\.self_attn\.o_proj"):
        gate.layers(copy, CHECKPOINT, Asked(settings("quant=w4a16")))


def test_a_quantized_lm_head_is_named(copy: Path, settings) -> None:
    edit(copy, lambda tensors: tensors.update({"lm_head.weight_scale": torch.ones(1)}))
    with pytest.raises(gate.Failed, match="lm_head"):
        gate.layers(copy, CHECKPOINT, Asked(settings("quant=w4a16")))


def test_a_scale_beside_a_weight_that_is_still_bf16_is_named(copy: Path, settings) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.mlp.down_proj.weight"] = torch.zeros(256, 768, dtype=torch.bfloat16)

    edit(copy, change)
    with pytest.raises(gate.Failed, match="still BF16"):
        gate.layers(copy, CHECKPOINT, Asked(settings("quant=w4a16")))


def test_a_changed_tokenizer_is_named(copy: Path) -> None:
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "<|endoftext|>"}))
    with pytest.raises(gate.Failed, match="tokenizer_config"):
        gate.files(copy, CHECKPOINT)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_weights_and_config_are_both_needed(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(gate.Failed, match=r"config\.json or the weights are missing"):
        gate.files(copy, CHECKPOINT)


def test_a_truncated_weight_file_is_named(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(gate.Failed, match="truncated"):
        gate.files(copy, CHECKPOINT)


@pytest.mark.parametrize("quant", ["w4a16", "fp8_static", "awq", "nvfp4", "mxfp4"])
def test_the_size_is_predicted_by_tensor(quant: str, checkpoint, settings) -> None:
    found = gate.Findings()
    job = Asked(settings(f"quant={quant}"))
    assert "predicted" in gate.size(checkpoint(quant), CHECKPOINT, job, found)
    assert found.predicted_bytes == pytest.approx(disk.weight_bytes(checkpoint(quant)), rel=0.0005)
    in_float32 = not job.hardware.has_native_bf16
    predicted = file_sizes.predicted(CHECKPOINT, job.settings.quant, False, in_float32=in_float32)
    assert file_sizes.differences(predicted, checkpoint(quant)) == []


def test_a_checkpoint_as_large_as_bf16_is_named(settings) -> None:
    with pytest.raises(gate.Failed, match=r"11,020,712 bytes, 5,190,\d+ predicted \(\+112"):
        gate.size(CHECKPOINT, CHECKPOINT, Asked(settings("quant=w4a16")), gate.Findings())


def test_a_tensor_that_is_stored_twice_is_named(copy: Path, settings) -> None:
    edit(copy, lambda tensors: tensors.update({"lm_head.weight_again": tensors["lm_head.weight"].clone()}))
    with pytest.raises(gate.Failed, match=r"lm_head\.weight_again: 1,572,864 bytes instead of 0"):
        gate.size(copy, CHECKPOINT, Asked(settings("quant=w4a16")), gate.Findings())


def test_tied_embeddings_are_stored_once(tmp_path: Path, settings) -> None:
    weight = torch.zeros(64, 32, dtype=torch.bfloat16)
    tied = {"model.embed_tokens.weight": weight, "lm_head.weight": weight.clone()}
    save_file(tied, tmp_path / "model.safetensors")
    config = {"num_hidden_layers": 0, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    quant = settings("quant=w4a16").quant
    assert "lm_head.weight" not in file_sizes.predicted(tmp_path, quant, False)
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    assert file_sizes.predicted(tmp_path, quant, False)["lm_head.weight"] == 4096


@pytest.mark.parametrize(("numbers", "padding"), [(32, 0), (33, 28)])
def test_a_gguf_files_tensors_begin_at_multiples_of_32_bytes(
    numbers: int, padding: int, tmp_path: Path, settings
) -> None:
    save_file({"model.norm.weight": torch.ones(numbers, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 0}))
    found = file_sizes.predicted(tmp_path, settings("quant=gguf_q8_0").quant, False)
    assert found["model.norm.weight"] == 4 * numbers
    # Name of 8 bytes with its length, number of dimensions, one of them, type, offset.
    assert found[file_sizes.HEADER] == 8 + 8 + 4 + 8 + 4 + 8 + padding


def test_scales_of_the_kv_cache_are_counted(settings) -> None:
    quant = settings("quant=bf16").quant
    without, with_scales = (file_sizes.predicted(CHECKPOINT, quant, given) for given in (False, True))
    assert set(with_scales) - set(without) == {f"model.layers.{n}.self_attn.{x}_scale" for n in range(4) for x in "kv"}


MODULE = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("quant", "name"),
    [
        ("w4a16", f"{MODULE}.weight_packed"),
        ("w4a16", f"{MODULE}.weight_shape"),
        ("fp8_dynamic", f"{MODULE}.weight"),
        ("nvfp4", f"{MODULE}.weight_global_scale"),
        ("bnb_nf4", f"{MODULE}.weight.absmax"),
        # A norm whose channels AWQ divided: nothing is read back from it.
        ("awq", "model.layers.1.post_attention_layernorm.weight"),
    ],
)
def test_a_missing_tensor_is_named(quant: str, name: str, checkpoint, tmp_path: Path, settings) -> None:
    folder = shutil.copytree(checkpoint(quant), tmp_path / "checkpoint")
    edit(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(MissingTensor, match=f"^the tensor {name} is missing$"):
        gate.weights(Asked(settings(f"quant={quant}"), folder), gate.Findings())


def test_the_worst_weight_is_named_whether_it_passes_or_not(good: Path, copy: Path, settings) -> None:
    found = gate.Findings()
    assert "28 compared with BF16; worst: model.layers." in gate.weights(Asked(settings("quant=w4a16"), good), found)
    assert [each.module for each in found.weight_errors].count(MODULE) == 1 and len(found.weight_errors) == 28
    edit(copy, lambda tensors: tensors[f"{MODULE}.weight_scale"].mul_(1.25))
    found = gate.Findings()
    with pytest.raises(gate.Failed, match=rf"{MODULE} is 0\.\d+ of its norm away, 0\.\d+ would be explained"):
        gate.weights(Asked(settings("quant=w4a16"), copy), found)
    assert [each.module for each in found.weight_errors if each.excess > 1] == [MODULE]


def answers(*logprobs: float, tokens: tuple[int, ...] = (1, 2, 3, 4)) -> CanaryAnswers:
    return CanaryAnswers(tokens=tokens, logprobs=logprobs)


REFERENCE = answers(-1.0, -4.0, -9.0, -2.5)
# In 2 layers of 4 bits, random weights explain as much as the cap allows.
COARSE = [WeightError(module=MODULE, error=0.3, allowed=0.4, nearest=0.3)]


def log_probabilities(seen: CanaryAnswers, job: Asked, **found) -> str:
    job.model.config = {"num_hidden_layers": 2}
    return gate.log_probabilities(job, gate.Findings(**{"reference": REFERENCE, **found}), seen)


def test_log_probabilities_pass_by_their_distance(settings) -> None:
    job = Asked(settings("quant=bf16"))
    assert log_probabilities(REFERENCE, job).startswith("4 tokens; 0.0000 of their spread away")
    found = gate.Findings(reference=REFERENCE)
    job.model.config = {"num_hidden_layers": 2}
    with pytest.raises(gate.Failed, match=r"^0\.6649 of their spread away from BF16's, 0\.0\d+ would be explained"):
        gate.log_probabilities(job, found, answers(-3.0, -6.0, -11.0, -4.5))
    # 2 nats on each, over a standard deviation of 3.008.
    assert found.canary_logprobs.distance == pytest.approx(0.6649, abs=1e-4)
    assert found.canary_logprobs.tokens == 4 and found.canary_logprobs.allowed < 0.05


def test_log_probabilities_of_other_tokens_are_refused(settings) -> None:
    other = answers(-1.0, -4.0, -9.0, -2.5, tokens=(1, 2, 3, 5))
    with pytest.raises(gate.Failed, match="other tokens"):
        log_probabilities(other, Asked(settings("quant=bf16")))


def test_without_bf16s_log_probabilities_nothing_is_compared(settings) -> None:
    with pytest.raises(gate.NotCompared, match="was not served"):
        log_probabilities(REFERENCE, Asked(settings("quant=bf16")), reference=None)


def test_random_weights_in_few_bits_are_not_judged_unless_they_answer_no_number(settings) -> None:
    far, broken = answers(-9.0, -1.0, -2.0, -8.0), answers(-9.0, float("nan"), -2.0, -8.0)
    random = Asked(settings("quant=w4a16", "model.weights=random"))
    with pytest.raises(gate.NotCompared, match="random weights this deep"):
        log_probabilities(far, random, weight_errors=COARSE)
    with pytest.raises(gate.Failed, match="inf of their spread"):
        log_probabilities(broken, random, weight_errors=COARSE)
    # Few errors explain less than the cap: judged.
    with pytest.raises(gate.Failed):
        log_probabilities(far, random, weight_errors=[WeightError(module=MODULE, error=0.3, allowed=0.4, nearest=0.01)])
    with pytest.raises(gate.Failed):
        log_probabilities(far, Asked(settings("quant=w4a16")), weight_errors=COARSE)


def test_a_missing_tensor_stops_the_gate(copy: Path, settings, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(copy, lambda tensors: tensors.pop(f"{MODULE}.weight_packed"))
    monkeypatch.setattr(gate, "CHECKS", ("weights",))
    draft = SimpleNamespace()
    with pytest.raises(StageError, match=rf"weights: the tensor {MODULE}\.weight_packed is missing"):
        gate.verify(Asked(settings("quant=w4a16"), copy), draft)
    assert [check.ok for check in draft.results.checks] == [False]


def test_what_is_not_known_is_neither_passed_nor_failed(
    checkpoint, tmp_path: Path, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another engine's mapping of an architecture that llm-compressor does not list: the variant is served."""
    model = shutil.copytree(CHECKPOINT, tmp_path / "unlisted")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["UnlistedForCausalLM"]}))
    monkeypatch.setattr(gate, "CHECKS", ("weights",))
    draft, job = SimpleNamespace(), Asked(settings("quant=awq", "quant.engine=autoawq"), checkpoint("awq"))
    job.model.folder = model
    gate.verify(job, draft)
    (check,) = draft.results.checks
    assert check.ok is None
    assert check.detail.startswith("not known here: UnlistedForCausalLM")
    assert draft.results.weight_errors is None


def test_weights_that_were_not_compared_are_not_taken_as_exact(checkpoint, settings) -> None:
    """The canary's bound is then the format's own error: what the answers of a good checkpoint need."""
    job = Asked(settings("quant=w4a16"), checkpoint("w4a16"))
    job.model.config = {"num_hidden_layers": 2}
    compared, not_compared = (gate.Findings(reference=REFERENCE) for _ in range(2))
    gate.weights(job, compared)
    for found in (compared, not_compared):
        gate.log_probabilities(job, found, REFERENCE)
    assert not_compared.canary_logprobs.allowed == pytest.approx(compared.canary_logprobs.allowed, rel=1e-6)
    assert not_compared.canary_logprobs.allowed > 0.2


def test_a_wrong_weight_does_not_raise_the_canarys_bound(good: Path, copy: Path, settings) -> None:
    edit(copy, lambda tensors: tensors[f"{MODULE}.weight_packed"].zero_())
    limits = []
    for folder in (good, copy):
        found, job = gate.Findings(reference=REFERENCE), Asked(settings("quant=w4a16"), folder)
        job.model.config = {"num_hidden_layers": 4}
        with contextlib.suppress(gate.Failed):
            gate.weights(job, found)
        gate.log_probabilities(job, found, REFERENCE)
        limits.append(found.canary_logprobs.allowed)
    assert limits[0] == limits[1]


def measured(monkeypatch: pytest.MonkeyPatch, seen: int, expected: dict[str, int], **job) -> tuple[str, gate.Findings]:
    """The check of the size of files of so many bytes."""
    asked = []
    settings = SimpleNamespace(quant="own", kv_cache=SimpleNamespace(needs_data=True))
    hardware = SimpleNamespace(has_native_bf16=job.get("native", True))
    monkeypatch.setattr(gate, "as_stored", lambda quant, folder, source: f"{quant} as stored")
    monkeypatch.setattr(gate.disk, "weight_bytes", lambda folder: seen)
    monkeypatch.setattr(gate.file_sizes, "predicted", lambda *given, **more: asked.append((given, more)) or expected)
    monkeypatch.setattr(gate.file_sizes, "differences", lambda sizes, folder: job.get("other", []))
    found, one = gate.Findings(), SimpleNamespace(settings=settings, hardware=hardware)
    try:
        return gate.size(Path("folder"), Path("source"), one, found), found
    finally:
        assert asked == [((Path("source"), "own as stored", True), {"in_float32": not hardware.has_native_bf16})]
        assert found.predicted_bytes == sum(expected.values())


@pytest.mark.parametrize("seen", [991, 1000, 1009])
def test_a_size_may_be_off_by_one_percent(monkeypatch: pytest.MonkeyPatch, seen: int) -> None:
    said, _ = measured(monkeypatch, seen, {"a": 600, "b": 400}, native=seen != 991)
    assert said == f"{seen:,} bytes, 1,000 predicted ({seen / 10 - 100:+.2f}%)"


@pytest.mark.parametrize("seen", [989, 1011])
def test_a_size_off_by_more_names_the_first_tensor(monkeypatch: pytest.MonkeyPatch, seen: int) -> None:
    with pytest.raises(gate.Failed, match=r"1,000 predicted .*; a: 1 bytes instead of 2$"):
        measured(monkeypatch, seen, {"a": 1000}, other=["a: 1 bytes instead of 2", "b"])
    with pytest.raises(gate.Failed, match="; beside the tensors$"):
        measured(monkeypatch, seen, {"a": 1000})


@pytest.mark.parametrize("other", [["model.norm.weight"], ["lm_head.weight", "model.norm.weight"]])
def test_tensors_that_nothing_rounds_are_counted_and_the_first_is_named(
    other: list[str], settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Asked(settings("quant=w4a16"))
    monkeypatch.setattr(gate, "changed", lambda folder, source, quant: [])
    assert gate.untouched(CHECKPOINT, CHECKPOINT, job) == "what no scheme rounds is BF16's, bit for bit"
    monkeypatch.setattr(gate, "changed", lambda folder, source, quant: other)
    said = f"{len(other)} tensors are not BF16's though nothing rounds them, {other[0]} first"
    with pytest.raises(gate.Failed, match=f"^{said}$"):
        gate.untouched(CHECKPOINT, CHECKPOINT, job)


def test_a_bf16_model_that_cannot_be_served_is_no_fault_of_a_variant(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: object) -> CanaryAnswers:
        raise ServerError(problem, "Look.")

    problem = "no room for the cache"
    monkeypatch.setattr(gate.canary, "reference", fail)
    job, found = Asked(settings("quant=w4a16")), gate.Findings()
    with pytest.raises(gate.NotCompared, match=r"^the BF16 model could not be served: no room for the cache$"):
        gate._reference(job, found)
    problem = "no room for the cache\nits log"
    with pytest.raises(gate.NotCompared, match=r"^the BF16 model could not be served: no room for the cache$"):
        gate._reference(job, found)
    with pytest.raises(ServerError):
        gate._reference(Asked(settings("quant=bf16")), found)
    monkeypatch.setattr(gate.canary, "reference", lambda job: REFERENCE)
    assert gate._reference(job, found) == "log-probabilities of the same texts" and found.reference is REFERENCE


def replied(*answers: str) -> tuple[str, gate.Findings]:
    server = SimpleNamespace(complete=lambda prompts, tokens: answers, ready_s=1.25)
    job, found = SimpleNamespace(server=lambda: server), gate.Findings()
    assert gate._loads(job) == "ready after 1.2 s"
    return gate._canaries(job, found), found


def test_one_answer_of_two_characters_is_enough() -> None:
    said, found = replied("!!!!", " ", "ab")
    assert said == "3 prompts answered"
    assert (found.canary[0].prompt, found.canary[0].answer) == ("The capital of France is", "!!!!")
    for answers_ in (("!!!!", " ", "\n\n"), ("a ", "", "b")):
        with pytest.raises(gate.Broken, match=f"no answer holds more than one character: {answers_[0]!r}"):
            replied(*answers_)


def test_fields_of_a_config_are_compared_where_both_have_a_plain_value() -> None:
    source = {
        "a": 1,
        "b": "x",
        "c": True,
        "d": [1],
        "e": {"f": 1.5, "dtype": "x"},
        "g": None,
        "h": 1,
        "use_cache": True,
    }
    own = {"a": 2, "b": "y", "c": False, "d": [2], "e": {"f": 2.5, "dtype": "y"}, "g": 5, "i": 1, "use_cache": False}
    assert gate._other_fields(own, source) == ["a=2, not 1", "b=y, not x", "c=False, not True", "e.f=2.5, not 1.5"]
    assert gate._other_fields(source, source) == []
    assert gate._other_fields({"a": {}}, {"a": 1}) == gate._other_fields({"a": 1}, {"a": None}) == []


def run_of(
    monkeypatch: pytest.MonkeyPatch, settings, theirs: bool = False, unserved: str = "", **outcomes: Exception | str
) -> tuple[list[tuple[str, bool | None, str]], str]:
    """The outcomes of the checks that are named, and the error that ended the gate."""
    names = {name: name.replace("_", " ") for name in outcomes}
    monkeypatch.setattr(gate, "CHECKS", tuple(names.values()))
    monkeypatch.setattr(gate.disk, "quantized_modules", lambda folder: {"a", "b"})
    monkeypatch.setattr(gate.disk, "weight_bytes", lambda folder: 300 if folder == Path("own") else 400)

    def outcome(name: str):
        def check(*_: object, **__: object) -> str:
            if isinstance(outcomes[name], Exception):
                raise outcomes[name]
            return str(outcomes[name])

        return check

    for name in outcomes:
        monkeypatch.setattr(gate, {"loads_in_vLLM": "_loads"}.get(name, name), outcome(name))
    job = Asked(settings("quant=w4a16"), Path("own"))
    job.unserved = unserved
    job.settings = SimpleNamespace(quant=SimpleNamespace(is_existing=theirs, name="w4a16"))
    job.server = lambda: SimpleNamespace(facts=lambda: ServerFacts(attention="FLASH"))
    draft, said = SimpleNamespace(), ""
    try:
        gate.verify(job, draft)
    except StageError as error:
        said = f"{error.problem} {error.remedy}"
    found = draft.results
    assert (found.bytes, found.baseline_bytes, found.quantized_layers, found.size_ratio) == (300, 400, 2, 0.75)
    assert (found.server.attention == "FLASH") is (not said and not unserved)
    return [(check.name, check.ok, check.detail) for check in found.checks], said


def test_the_gate_stops_at_the_first_check_that_fails(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    checks, said = run_of(monkeypatch, settings, files="whole", layers=gate.Failed("one is missing"), scales="fine")
    assert checks == [("files", True, "whole"), ("layers", False, "one is missing")]
    assert said.startswith("w4a16 did not pass the gate: layers: one is missing. Its checkpoint is kept")


def test_what_others_made_is_measured_though_a_check_fails(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {
        "files": gate.Failed("another"),
        "layers": InputError("it is cut short", "Make it again."),
        "scales": "fine",
    }
    checks, said = run_of(monkeypatch, settings, theirs=True, **failed)
    assert [ok for _, ok, _ in checks] == [False, False, True] and said == ""
    assert checks[1][2] == "it is cut short"
    checks, said = run_of(monkeypatch, settings, theirs=True, files=gate.Broken("missing"), layers="fine")
    assert checks == [("files", False, "missing")]
    assert said == (
        "w4a16 did not pass the gate: files: missing. Others made this checkpoint: fetch it again, or tell them."
    )
    checks, said = run_of(monkeypatch, settings, files=InputError("it is cut short", "Make it again."), layers="fine")
    assert checks == [("files", False, "it is cut short")] and said


def test_what_cannot_be_compared_goes_on(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = {"files": gate.NotCompared("no tokenizer"), "layers": UnknownFormat("how it rounds"), "scales": "fine"}
    checks, said = run_of(monkeypatch, settings, **unknown)
    assert [ok for _, ok, _ in checks] == [None, None, True] and said == ""
    assert checks[0][2] == "no tokenizer" and checks[1][2] == f"not known here: {unknown['layers'].problem}"


def test_a_checkpoint_that_is_not_served_is_judged_by_its_files(settings, monkeypatch: pytest.MonkeyPatch) -> None:
    checks, _ = run_of(monkeypatch, settings, unserved="no GPU", files="whole", loads_in_vLLM="ready")
    assert checks == [("files", True, "whole"), ("loads in vLLM", None, "not served here: no GPU")]
    with pytest.raises(InputError):
        run_of(monkeypatch, settings, theirs=True, loads_in_vLLM=InputError("refused", "Change the setting."))
