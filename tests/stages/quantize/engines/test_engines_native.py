"""AutoAWQ, GPTQModel and AutoRound on the demo model: the format's files, the same tokens, errors near each other's."""

import json
import socket
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.settings import settings_of

from pipeline.compare.engine_agreement import AGREEMENT
from pipeline.config import PROJECT_ROOT, QuantSettings
from pipeline.config.quant import EXISTING
from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError, StageError
from pipeline.formats.schemes import ENGINES as SCHEME_ENGINES
from pipeline.hardware.probe import probe
from pipeline.models.headers import describe, headers, ignored, quantization_config, quantized_modules
from pipeline.models.pair import Pair
from pipeline.models.safetensors import companions
from pipeline.results.calibration import TOKENS
from pipeline.runner import Runner
from pipeline.stages.quantize import check_engine
from pipeline.stages.quantize.engines import ENGINES, autoawq, autoround, base, gptqmodel, llmcompressor
from pipeline.stages.quantize.support import why_not_made
from pipeline.stages.verify import file_sizes, gate
from pipeline.stages.verify.weights import changed
from pipeline.stages.verify.weights import compare as gate_compare

CONFIG = json.loads((CHECKPOINT / "config.json").read_text())
MODULES = {"autoawq": autoawq, "gptqmodel": gptqmodel, "autoround": autoround, "llmcompressor": llmcompressor}
NEEDS = {"autoawq": "awq", "gptqmodel": "gptqmodel", "autoround": "auto_round", "llmcompressor": "llmcompressor"}
# A scheme -> who makes it with data, and by which algorithm.
MAKERS = {
    "W4A16_ASYM": {"llmcompressor": "awq", "autoawq": "awq", "gptqmodel": "awq", "autoround": "signround"},
    "W4A16": {"llmcompressor": "gptq", "gptqmodel": "gptq", "autoround": "signround"},
    "W8A16": {"llmcompressor": "gptq", "gptqmodel": "gptq", "autoround": "signround"},
}
# AutoRound takes half a minute for each; one of them shows its layout.
SLOW = {("autoround", "W4A16_ASYM"), ("autoround", "W8A16")}
NATIVE = [(scheme, name) for scheme, makers in MAKERS.items() for name in makers if name != "llmcompressor"]


def conversations(count: int) -> list[torch.Tensor]:
    """Some of the demo's text as tokens, each of another length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    lines = (PROJECT_ROOT / "pipeline" / "demo" / "tasks" / "data" / "demo_gsm8k.jsonl").read_text().splitlines()
    texts = [" ".join(str(value) for value in json.loads(line).values()) for line in lines[:count]]
    return [torch.tensor(tokenizer.encode(text)[: 24 + 7 * (place % 5)])[None] for place, text in enumerate(texts)]


class Bench:
    """Makes checkpoints from a few conversations, each once."""

    def __init__(self, folder: Path, count: int, iterations: int) -> None:
        self.folder, self.sequences = folder, conversations(count)
        self.iterations = iterations
        flat = {"input_ids": torch.cat(self.sequences, dim=1)[0].int()}
        flat["lengths"] = torch.tensor([ids.shape[1] for ids in self.sequences], dtype=torch.int32)
        save_file(flat, folder / TOKENS)
        self.made: dict[tuple[str, ...], Path] = {}

    def job(self, *overrides: str) -> tuple[Any, Any]:
        draft = SimpleNamespace(folder=self.folder / f"draft-{len(list(self.folder.iterdir()))}")
        draft.folder.mkdir()
        return SimpleNamespace(
            settings=settings_of(*overrides),
            model=SimpleNamespace(folder=CHECKPOINT, config=CONFIG, names=frozenset(headers(CHECKPOINT))),
            hardware=probe("cpu"),
            progress=SimpleNamespace(detail=lambda _: None),
            variant="tested",
            workspace=SimpleNamespace(root=self.folder),
            artifact=lambda _: SimpleNamespace(folder=self.folder),
        ), draft

    def checkpoint(self, scheme: str, name: str, *overrides: str, again: bool = False) -> Path:
        pytest.importorskip(NEEDS[name])
        key = (scheme, name, *overrides)
        if key not in self.made or again:
            job, draft = self.job(*asked(scheme, name), *overrides)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(draft.folder)
                patch.setattr(socket.socket, "connect", refused)
                patch.setattr(autoround, "ITERATIONS", self.iterations)
                MODULES[name].make(job, draft)
            assert {path.name for path in draft.folder.iterdir()} == {"checkpoint", "quantize.log"}
            self.made[key] = draft.folder / "checkpoint"
        return self.made[key]


def asked(scheme: str, name: str) -> tuple[str, ...]:
    """The overrides that make an engine's checkpoint of a scheme."""
    algorithm = MAKERS[scheme][name]
    return ("quant=awq", f"quant.scheme={scheme}", f"quant.engine={name}", f"quant.algorithm={algorithm}")


def refused(*_: Any) -> None:
    raise AssertionError("an engine asked the network")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("engines"), count=3, iterations=2)


@pytest.fixture(scope="module")
def thorough(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("thorough"), count=8, iterations=autoround.ITERATIONS)


@pytest.mark.parametrize(
    ("scheme", "name"),
    [pytest.param(scheme, name, marks=pytest.mark.slow if (name, scheme) in SLOW else ()) for scheme, name in NATIVE],
)
def test_the_checkpoint_is_of_the_native_format(scheme: str, name: str, bench: Bench) -> None:
    folder = bench.checkpoint(scheme, name)
    config = quantization_config(folder)
    bits = 8 if scheme == "W8A16" else 4
    assert (config["quant_method"], config["bits"]) == ("awq" if scheme == "W4A16_ASYM" else "gptq", bits)
    assert config["group_size"] == 128
    found = headers(folder)
    expected = {name.removesuffix(".weight") for name in headers(CHECKPOINT) if name.endswith("_proj.weight")}
    assert quantized_modules(folder) == expected
    assert describe(folder)["quantized_layers"] == 28
    quant = settings_of(*asked(scheme, name)).quant
    assert file_sizes.differences(file_sizes.predicted(CHECKPOINT, quant, False), folder) == []
    assert all(item.excess <= 1 for item in gate_compare(folder, CHECKPOINT, quant))
    assert changed(folder, CHECKPOINT, quant) == []
    assert "28 of 28" in gate.layers(folder, CHECKPOINT, SimpleNamespace(settings=SimpleNamespace(quant=quant)))
    assert "in range" in gate.scales(folder)
    untouched = [item for item in found if not item.startswith(tuple(f"{name}." for name in expected))]
    assert sorted(untouched) == sorted(item for item in headers(CHECKPOINT) if not item.endswith("_proj.weight"))
    assert {found[item]["dtype"] for item in untouched} == {"BF16"}
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        *(path.name for path in companions(CHECKPOINT)),
    }
    for path in companions(CHECKPOINT):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    kept = {key: value for key, value in json.loads((folder / "config.json").read_text()).items() if key in CONFIG}
    assert kept == CONFIG
    assert (folder.parent / "quantize.log").stat().st_size > 0


def zero_points_of_the_other_version(_: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    config["checkpoint_format"] = "gptq_v2"


def shifted_zero_points(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
    tensors[f"{DAMAGED}.qzeros"] ^= 0x11111111


def another_packing_order(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
    packed = tensors[f"{DAMAGED}.qweight"]
    tensors[f"{DAMAGED}.qweight"] = ((packed & 0x0F0F0F0F) << 4) | ((packed >> 4) & 0x0F0F0F0F)


def scales_of_other_channels(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
    tensors[f"{DAMAGED}.scales"] = tensors[f"{DAMAGED}.scales"].roll(1, 1)


DAMAGED = "model.layers.2.self_attn.q_proj"
FAULTS = [
    *((scheme, "gptqmodel", zero_points_of_the_other_version) for scheme in ("W4A16", "W8A16")),
    ("W4A16_ASYM", "autoawq", shifted_zero_points),
    *(
        (*maker, damage)
        for maker in (("W4A16", "gptqmodel"), ("W8A16", "gptqmodel"), ("W4A16_ASYM", "autoawq"))
        for damage in (another_packing_order, scales_of_other_channels)
    ),
]


@pytest.mark.parametrize(("scheme", "name", "damage"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_the_gate_finds_a_planted_fault(scheme: str, name: str, damage: Any, bench: Bench, tmp_path: Path) -> None:
    folder = bench.checkpoint(scheme, name)
    tensors, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    damage(tensors, config["quantization_config"])
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = gate_compare(tmp_path, CHECKPOINT, settings_of(*asked(scheme, name)).quant)
    wrong = {item.module for item in found if item.excess > 1}
    everywhere = damage is zero_points_of_the_other_version
    assert wrong == ({item.module for item in found} if everywhere else {DAMAGED})


def second_moments(sequences: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The sum of x x^T over the inputs x of each Linear of the BF16 model."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    found: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = inputs[0].flatten(0, -2)
            found[name] = found.get(name, 0) + rows.t() @ rows

        return hook

    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        for ids in sequences:
            model(ids)
    return found


def in_original_terms(folder: Path, quant: QuantSettings) -> dict[str, torch.Tensor]:
    """The weights with what AWQ moved between neighbours moved back."""
    pair = Pair(folder, CHECKPOINT, quant)
    return {name: pair.images[name] / pair.factors.of(name) for name in pair.modules}


def errors(
    folder: Path, original: dict[str, torch.Tensor], moments: dict[str, torch.Tensor], quant: QuantSettings
) -> torch.Tensor:
    """For each Linear: relative Frobenius error of the weight, and of its outputs over inputs that nobody was shown."""
    rows = []
    for name, weight in sorted(in_original_terms(folder, quant).items()):
        wanted, moment = original[f"{name}.weight"], moments[name]
        change = weight - wanted
        seen = ((change @ moment) * change).sum() / ((wanted @ moment) * wanted).sum()
        rows.append([float(change.norm() / wanted.norm()), float(seen.clamp(min=0).sqrt())])
    return torch.tensor(rows)


# Of one algorithm, engines agree: their mean weight errors are within 10 % of the best one's.
# GPTQ gives weights up for outputs, the more the fewer tokens it saw, and AutoRound looks at the outputs of whole
# blocks (in two steps it comes to rounding to nearest): across algorithms, no layer is off by what a fault would make.
# A zero point off by one makes 3.6 times the weight's error, and a scale or an order that is wrong far more.
WEIGHT_FACTOR, OUTPUT_FACTOR = 2.5, 3.0


def compare(bench: Bench, scheme: str) -> None:
    original = {name: tensor.float() for name, tensor in load_file(CHECKPOINT / "model.safetensors").items()}
    moments = second_moments(conversations(32)[16:])
    makers = MAKERS[scheme]
    quants = {
        name: QuantSettings(name=name, title=name, engine=name, scheme=scheme, algorithm=makers[name])
        for name in makers
    }
    table = {name: errors(bench.checkpoint(scheme, name), original, moments, quants[name]) for name in makers}
    print(f"\n{scheme}: relative error of weights (mean, worst layer), of outputs (mean, worst layer)")
    for name, found in table.items():
        (weight, output), (worst, worst_output) = found.mean(0).tolist(), found.amax(0).tolist()
        print(f"  {name:14} {weight:.4f} {worst:.4f}   {output:.4f} {worst_output:.4f}")
    best = torch.stack(list(table.values())).amin(0)
    for name, found in table.items():
        peers = min(float(table[peer].mean(0)[0]) for peer in table if makers[peer] == makers[name])
        assert float(found.mean(0)[0]) / peers <= AGREEMENT, name
        assert (found / best).amax(0)[0] < WEIGHT_FACTOR, name
        assert found.mean(0)[1] / best.mean(0)[1] < OUTPUT_FACTOR, name


@pytest.mark.parametrize(
    "scheme", [pytest.param(each, marks=pytest.mark.slow) if each == "W8A16" else each for each in MAKERS]
)
def test_no_engine_is_far_from_the_best(scheme: str, bench: Bench) -> None:
    compare(bench, scheme)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", MAKERS)
def test_no_engine_is_far_from_the_best_with_more_data(scheme: str, thorough: Bench) -> None:
    compare(thorough, scheme)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "name"), [("W4A16", "gptqmodel"), ("W4A16", "autoround"), ("W4A16_ASYM", "gptqmodel")]
)
def test_the_same_seed_makes_the_same_checkpoint(scheme: str, name: str, bench: Bench) -> None:
    first = bench.checkpoint(scheme, name)
    again = bench.checkpoint(scheme, name, again=True)
    assert first != again
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


LEFT = ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.gate_proj", "model.layers.2.mlp.up_proj"]


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        ("W4A16", "gptqmodel"),
        pytest.param("W4A16_ASYM", "autoawq", marks=pytest.mark.slow),
        pytest.param("W4A16", "autoround", marks=pytest.mark.slow),
    ],
)
def test_ignored_modules_and_other_groups_and_their_record(scheme: str, name: str, bench: Bench) -> None:
    patterns = "[lm_head,model.layers.1.mlp.down_proj,'re:.*[.]2[.]mlp[.](gate|up)_proj']"
    folder = bench.checkpoint(scheme, name, f"quant.ignore={patterns}", "quant.group_size=64")
    config = quantization_config(folder)
    assert len(quantized_modules(folder)) == 25
    assert not quantized_modules(folder) & set(LEFT)
    assert {f"{module}.weight" for module in LEFT} <= set(headers(folder))
    assert set(ignored(config)) - {"lm_head"} == set(LEFT)
    assert headers(folder)["model.layers.0.mlp.down_proj.scales"]["shape"] == [768 // 64, 256]
    assert config["group_size"] == 64


def test_ignored_modules_that_gptqmodels_awq_cannot_leave_out_are_refused(settings) -> None:
    quant = settings("quant=awq_autoawq", "quant.engine=gptqmodel", "quant.ignore=[lm_head,'re:.*down_proj']").quant
    with pytest.raises(ConfigError, match=r"quant\.ignore=.*autoawq"):
        check_engine(quant)


def test_dampening_reaches_gptq(settings) -> None:
    quant = settings("quant=gptq_int4", "quant.dampening=0.07").quant
    assert gptqmodel.arguments(quant, "cpu")["damp_percent"] == 0.07


def test_padding_is_masked() -> None:
    first, second = autoround.padded([torch.tensor([[5, 6, 7]]), torch.tensor([[8]])], 0)
    assert first["attention_mask"].tolist() == [[1, 1, 1]]
    assert second["input_ids"].tolist() == [[8, 0, 0]]
    assert second["attention_mask"].tolist() == [[1, 0, 0]]


def test_an_engine_that_is_not_installed_is_refused_before_work_starts(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gptqmodel, "REQUIRES", ("gptqmodel-not-there",))
    given = ("stage=quantize", "quant=gptq_int4", f"outputs={tmp_path / 'outputs'}")
    with pytest.raises(
        ConfigError, match=r"quant\.engine=gptqmodel: gptqmodel-not-there is not installed.*make install"
    ):
        Runner([settings(*given)], list(given))
    assert not list(tmp_path.glob("outputs/demo/*"))
    check_engine(settings("quant=bf16").quant)
    check_engine(settings("quant=gptq").quant)


def test_a_group_size_that_does_not_divide_is_refused_by_name(settings, tmp_path: Path) -> None:
    given = ("stage=quantize", "quant=gptq_int4", "quant.group_size=96", f"outputs={tmp_path / 'outputs'}")
    with pytest.raises(ConfigError, match=r"group size 96 does not divide hidden_size=256"):
        Runner([settings(*given)], list(given))


@pytest.mark.parametrize("raised", [ValueError("no such thing"), SystemExit(-1)])
def test_what_an_engine_throws_is_its_variants_failure(
    raised: BaseException, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def thrown(*_: Any) -> None:
        print("said before")
        raise raised

    monkeypatch.setattr(autoawq, "_make", thrown)
    job, draft = bench.job("quant=awq_autoawq")
    with pytest.raises(StageError, match="AutoAWQ could not make tested") as caught:
        autoawq.make(job, draft)
    kept = bench.folder / "logs" / "quantize-tested.log"
    assert str(kept) in str(caught.value)
    assert "said before" in kept.read_text()
    assert "Traceback" in kept.read_text()


def test_a_failure_in_one_of_gptqmodels_threads_is_no_end_of_the_process(bench: Bench) -> None:
    pytest.importorskip("gptqmodel")
    job, draft = bench.job("quant=gptq_int4")
    with pytest.MonkeyPatch.context() as patch:
        from gptqmodel.looper.gptq_processor import GPTQProcessor

        def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError("broken on purpose")

        patch.setattr(GPTQProcessor, "submodule_finalize", broken)
        patch.chdir(draft.folder)
        with pytest.raises(StageError, match="GPTQModel could not make tested: RuntimeError: broken on purpose"):
            gptqmodel.make(job, draft)


def test_groups_in_another_order_are_refused(tmp_path: Path) -> None:
    save_file({"a.g_idx": torch.tensor([0, 1, 0, 1])}, tmp_path / "model.safetensors")
    with pytest.raises(StageError, match="a.g_idx"):
        base.settle(CHECKPOINT, tmp_path, {})


def test_a_type_that_autoawq_does_not_know_is_refused_before_any_work(settings) -> None:
    if find_spec("awq") is None:
        pytest.skip("AutoAWQ is not installed")
    chosen = settings("quant=awq_autoawq")
    assert "does not know models of type gemma3_text" in why_not_made(chosen, {"model_type": "gemma3_text"})
    assert why_not_made(chosen, {"model_type": "qwen3"}) == ""


def test_every_engine_that_a_format_names_is_there() -> None:
    assert set(ENGINES) == {*SCHEME_ENGINES, EXISTING}
    assert all(engine.TITLE for engine in ENGINES.values())
