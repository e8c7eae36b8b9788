"""Checkpoints damaged in one place, and the check that finds each: before anything is served.

What no offline check can find is not in the files: a kernel that reads another order, a scale that the loader drops, a
field of config.json that vLLM reads and the BF16 checkpoint does not have. The served canary is for those.
"""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import write
from support.packed import write_packed
from support.rescaled_families import pairs_of, rescaled

from pipeline.demo import CHECKPOINT
from pipeline.errors import StageError
from pipeline.formats.unpack import unpack
from pipeline.hardware.probe import probe
from pipeline.job import Job
from pipeline.results.verify import CHECKS, Check
from pipeline.stages.verify import gate

Tensors = dict[str, torch.Tensor]
OFFLINE = CHECKS[: CHECKS.index("BF16 reference")]
LAYER = "model.layers.1"
GATE, UP, DOWN = (f"{LAYER}.mlp.{name}_proj" for name in ("gate", "up", "down"))
QUERY, KEY, VALUE = (f"{LAYER}.self_attn.{name}_proj" for name in "qkv")


class Damaged:
    """A job whose checkpoint is another folder."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._job, self.checkpoint = job, folder
        self.progress = SimpleNamespace(detail=lambda text: None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)

    def server(self) -> Any:
        return SimpleNamespace(facts=dict)


# --- damage to tensors ---


def times(name: str, factor: float, *place: Any) -> Callable[[Tensors], None]:
    """Multiply a tensor, or a part of it."""

    def damage(tensors: Tensors) -> None:
        part = tensors[name][place] if place else tensors[name]
        changed = (part.float() * factor).to(part.dtype)
        tensors[name][place if place else ...] = changed

    return damage


def exchanged(one: str, other: str) -> Callable[[Tensors], None]:
    """Exchange the tensors of two modules, or two tensors."""

    def damage(tensors: Tensors) -> None:
        own = {name: tensors.pop(name) for name in list(tensors) if name.startswith((one, other))}
        for name, tensor in own.items():
            new = name.replace(one, other) if name.startswith(one) else name.replace(other, one)
            tensors[new] = tensor

    return damage


def rows_swapped(module: str, *fields: str) -> Callable[[Tensors], None]:
    """Exchange two rows of a weight, with their scales."""

    def damage(tensors: Tensors) -> None:
        for field in fields:
            rows = tensors[f"{module}.{field}"]
            rows[3], rows[90] = rows[90].clone(), rows[3].clone()

    return damage


def recoded(module: str, change: Callable[[torch.Tensor], torch.Tensor], *place: Any) -> Callable[[Tensors], None]:
    """Change packed 4-bit codes: unsigned, 8 for the symmetric zero."""

    def damage(tensors: Tensors) -> None:
        packed = tensors[f"{module}.weight_packed"]
        codes = unpack(packed, 4, 1)
        codes[place] = change(codes[place])
        shifts = torch.arange(0, 32, 4, dtype=torch.int32)
        parts = codes.reshape(len(codes), -1, 8) << shifts
        tensors[f"{module}.weight_packed"] = parts.sum(-1, dtype=torch.int32)

    return damage


def bits(name: str, change: Callable[[torch.Tensor], torch.Tensor], *place: Any) -> Callable[[Tensors], None]:
    """Change the bits of a tensor."""

    def damage(tensors: Tensors) -> None:
        tensors[name][place if place else ...] = change(tensors[name][place if place else ...])

    return damage


def without(module: str) -> Callable[[Tensors], None]:
    """Remove a tensor, or those of a module."""

    def damage(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(module)]:
            del tensors[name]

    return damage


def copied(name: str, new: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({new: tensors[name].clone()})


def original(*names: str) -> Callable[[Tensors], None]:
    """Put BF16's tensors back."""

    def damage(tensors: Tensors) -> None:
        source = load_file(CHECKPOINT / "model.safetensors")
        tensors.update({name: source[name] for name in names})

    return damage


def left_in_bf16(module: str) -> Callable[[Tensors], None]:
    def damage(tensors: Tensors) -> None:
        without(module)(tensors)
        original(f"{module}.weight")(tensors)

    return damage


def negated(codes: torch.Tensor) -> torch.Tensor:
    return (16 - codes).clamp(0, 15)


# --- damage to files ---


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_json(file: str, **fields: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return damage


def other_quantization(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config["quantization_config"])
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def weights_of(quantization: dict[str, Any]) -> dict[str, Any]:
    return quantization["config_groups"]["group_0"]["weights"]


def appended(file: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_text((folder / file).read_text() + " ")


class Corruption(NamedTuple):
    quant: str
    name: str
    damage: Callable[[Any], Any]
    check: str
    in_files: bool = False


def of_rows(quant: str) -> list[Corruption]:
    """Damage to single rows and groups of packed codes, the same in every algorithm."""
    return [
        Corruption(quant, "a row of zeros", recoded(UP, lambda codes: codes * 0 + 8, 3), "weights"),
        Corruption(quant, "a negated row", recoded(DOWN, negated, 3), "weights"),
        Corruption(quant, "one group's scale x 2", times(f"{DOWN}.weight_scale", 2, 7, 1), "weights"),
        Corruption(quant, "one group's scale x 8", times(f"{DOWN}.weight_scale", 8, 7, 1), "weights"),
        Corruption(quant, "one group's scale x 1/8", times(f"{DOWN}.weight_scale", 1 / 8, 7, 1), "weights"),
        Corruption(quant, "two rows exchanged", rows_swapped(QUERY, "weight_packed", "weight_scale"), "weights"),
    ]


SCALE, KV_SCALE = f"{DOWN}.input_scale", f"{LAYER}.self_attn.{{}}_scale"
CORRUPTIONS = [
    *of_rows("w4a16"),
    *of_rows("gptq"),
    Corruption("w4a16", "keys and values exchanged", exchanged(KEY, VALUE), "weights"),
    Corruption("w4a16", "gate and up exchanged", exchanged(GATE, UP), "weights"),
    Corruption("w4a16", "two layers exchanged", exchanged(DOWN, DOWN.replace("1", "2")), "weights"),
    Corruption("w4a16", "zero point off by one", recoded(UP, lambda codes: (codes + 1).clamp_max(15)), "weights"),
    Corruption(
        "w4a16",
        "order of packing",
        recoded(UP, lambda codes: codes.reshape(len(codes), -1, 2).flip(2).reshape(codes.shape)),
        "weights",
    ),
    Corruption("w4a16", "scales of other rows", bits(f"{UP}.weight_scale", lambda scale: scale.flip(0)), "weights"),
    Corruption("w4a16", "a scale that is no number", times(f"{UP}.weight_scale", float("nan"), 3, 0), "scales"),
    Corruption("w4a16", "a missing tensor of a weight", without(f"{UP}.weight_shape"), "weights"),
    Corruption("w4a16", "a layer left in BF16", left_in_bf16(UP), "layers"),
    Corruption("w4a16", "lm_head quantized", copied(f"{UP}.weight_scale", "lm_head.weight_scale"), "layers"),
    Corruption("w4a16", "a tensor stored twice", copied("lm_head.weight", "lm_head.copy"), "size"),
    Corruption("w4a16", "a channel of a norm", times(f"{LAYER}.input_layernorm.weight", 1.01, 5), "untouched"),
    Corruption("w4a16", "a missing norm", without(f"{LAYER}.self_attn.q_norm.weight"), "untouched"),
    Corruption(
        "w4a16", "two tokens exchanged", bits("model.embed_tokens.weight", lambda rows: rows.roll(1, 0)), "untouched"
    ),
    Corruption("w4a16", "the output layer x 1.01", times("lm_head.weight", 1.01), "untouched"),
    Corruption("w4a16", "a truncated file", truncated, "files", in_files=True),
    Corruption(
        "w4a16", "other end of text", other_json("generation_config.json", eos_token_id=1), "files", in_files=True
    ),
    Corruption("w4a16", "another chat template", appended("chat_template.jinja"), "files", in_files=True),
    Corruption(
        "w4a16", "a missing tokenizer", lambda folder: (folder / "tokenizer.json").unlink(), "files", in_files=True
    ),
    Corruption(
        "w4a16",
        "other positions",
        other_json("config.json", rope_parameters={"rope_theta": 10.0, "rope_type": "default"}),
        "files",
        in_files=True,
    ),
    Corruption(
        "w4a16",
        "config.json: groups of 64",
        other_quantization(lambda q: weights_of(q).update(group_size=64)),
        "weights",
        in_files=True,
    ),
    Corruption(
        "w4a16",
        "config.json: 8 bits",
        other_quantization(lambda q: weights_of(q).update(num_bits=8)),
        "weights",
        in_files=True,
    ),
    Corruption(
        "w4a16",
        "config.json: a layer ignored",
        other_quantization(lambda q: q["ignore"].append(UP)),
        "layers",
        in_files=True,
    ),
    Corruption("awq", "a row of zeros", recoded(UP, lambda codes: codes * 0 + 8, 3), "weights"),
    Corruption("awq", "a negated row", times(f"{UP}.weight_scale", -1, 3), "scales"),
    Corruption("awq", "a row's scales x 2 in front", times(f"{UP}.weight_scale", 2, 3), "weights"),
    Corruption("awq", "a channel of a norm x 2", times(f"{LAYER}.post_attention_layernorm.weight", 2, 5), "weights"),
    Corruption("awq", "a norm that was not divided", original(f"{LAYER}.post_attention_layernorm.weight"), "weights"),
    Corruption(
        "awq", "zero points off by one", bits(f"{UP}.weight_zero_point", lambda packed: packed ^ 0x11111111), "weights"
    ),
    Corruption("awq", "one group's scale x 2", times(f"{DOWN}.weight_scale", 2, 7, 1), "weights"),
    *(
        Corruption(quant, f"an input scale x {factor}", times(SCALE, factor), "activation scales")
        for quant, factor in (("fp8_static", 8), ("fp8_static", 0.25), ("int8_static", 8), ("int8_static", 0.25))
    ),
    Corruption("fp8_static", "a missing input scale", without(SCALE), "activation scales"),
    Corruption("fp8_static", "input scales exchanged", exchanged(SCALE, f"{UP}.input_scale"), "activation scales"),
    Corruption("fp8_static", "a row of zeros", times(f"{UP}.weight", 0, 3), "weights"),
    Corruption("fp8_static", "two rows exchanged", rows_swapped(UP, "weight"), "weights"),
    Corruption("fp8_static", "a weight's scale x 1.25", times(f"{UP}.weight_scale", 1.25), "weights"),
    Corruption("int8_static", "a negated row", times(f"{UP}.weight", -1, 3), "weights"),
    Corruption("nvfp4", "an input's divisor x 8", times(f"{UP}.input_global_scale", 8), "activation scales"),
    Corruption("nvfp4", "an input's divisor x 1/8", times(f"{UP}.input_global_scale", 1 / 8), "activation scales"),
    Corruption("nvfp4", "a weight's divisor x 2", times(f"{UP}.weight_global_scale", 2), "weights"),
    Corruption("nvfp4", "one block's scale x 2", times(f"{UP}.weight_scale", 2, 7, 1), "weights"),
    Corruption("nvfp4", "a negated row", bits(f"{UP}.weight_packed", lambda row: row ^ 0x88, 3), "weights"),
    Corruption("mxfp4", "one block's scale x 2", bits(f"{UP}.weight_scale", lambda code: code + 1, 7, 1), "weights"),
    Corruption(
        "mxfp4", "order of packing", bits(f"{UP}.weight_packed", lambda codes: codes << 4 | codes >> 4), "weights"
    ),
    Corruption(
        "bf16+fp8_e4m3",
        "k and v scales exchanged",
        exchanged(KV_SCALE.format("k"), KV_SCALE.format("v")),
        "activation scales",
    ),
    Corruption("bf16+fp8_e4m3", "keys' scale x 100", times(KV_SCALE.format("k"), 100), "activation scales"),
    Corruption("bf16+fp8_e4m3", "a missing scale", without(KV_SCALE.format("v")), "activation scales"),
    Corruption(
        "bf16+fp8_e4m3",
        "a scale too many",
        copied(KV_SCALE.format("k"), "model.layers.9.self_attn.k_scale"),
        "activation scales",
    ),
]


def overrides(quant: str) -> list[str]:
    name, _, cache = quant.partition("+")
    return [f"quant={name}", *([f"kv_cache={cache}"] if cache else [])]


def outcomes(job: Any, monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """What the offline checks say, up to the first that fails."""
    monkeypatch.setattr(gate, "CHECKS", OFFLINE)
    draft = SimpleNamespace()
    with contextlib.suppress(StageError):
        gate.verify(job, draft)
    return list(draft.results.checks)


def edited(folder: Path, damage: Callable[[Tensors], None]) -> None:
    path = next(iter(sorted(folder.glob("*.safetensors"))))
    tensors = load_file(path)
    damage(tensors)
    # The baseline's is a link to BF16's.
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("each", CORRUPTIONS, ids=[f"{each.quant}: {each.name}" for each in CORRUPTIONS])
def test_a_corruption_is_found_before_the_checkpoint_is_served(
    each: Corruption, made: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made(*overrides(each.quant))
    folder = shutil.copytree(job.checkpoint, tmp_path / "checkpoint")
    each.damage(folder) if each.in_files else edited(folder, each.damage)
    last = outcomes(Damaged(job, folder), monkeypatch)[-1]
    assert (last.name, last.ok) == (each.check, False), last.detail


@pytest.mark.parametrize("quant", sorted({each.quant for each in CORRUPTIONS}))
def test_what_is_not_damaged_passes(quant: str, made: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    job = made(*overrides(quant))
    found = outcomes(Damaged(job, job.checkpoint), monkeypatch)
    assert [check.name for check in found] == list(OFFLINE)
    assert [check for check in found if check.ok is False] == []


ROUTER, EXPERT = f"{LAYER}.mlp.gate", f"{LAYER}.mlp.experts.{{}}"
OF_EXPERTS = [
    ("one expert exchanged with another", exchanged(EXPERT.format(1), EXPERT.format(2)), "weights"),
    ("an expert's missing weight", without(EXPERT.format(3) + ".up_proj"), "layers"),
    ("the router quantized", copied(f"{EXPERT.format(0)}.up_proj.weight_scale", f"{ROUTER}.weight_scale"), "layers"),
    ("the router's rows exchanged", bits(f"{ROUTER}.weight", lambda rows: rows.flip(0)), "untouched"),
    ("a column of the router x 1.1", times(f"{ROUTER}.weight", 1.1, slice(None), 5), "untouched"),
    ("a channel of the norm x 2", times(f"{LAYER}.post_attention_layernorm.weight", 2, 5), "untouched"),
]


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory, settings) -> Any:
    """A mixture of experts as AWQ leaves it, rounded to nearest."""
    source = write("qwen3_moe", tmp_path_factory.mktemp("experts") / "model")
    tensors = rescaled(source, pairs_of(source, "awq"))
    modules = {name.removesuffix(".weight") for name in tensors if name.endswith("_proj.weight")}
    asked = settings("quant=awq", "quant.group_size=32")
    return SimpleNamespace(
        settings=asked,
        hardware=probe("cpu"),
        model=SimpleNamespace(folder=source),
        checkpoint=write_packed(source.with_name("made"), source, tensors, modules),
        variant="awq",
        unserved="",
    )


@pytest.mark.parametrize(("name", "damage", "check"), [("nothing", None, None), *OF_EXPERTS])
def test_a_corruption_of_a_mixture_of_experts_is_found(
    name: str, damage: Any, check: str | None, experts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(experts.checkpoint, tmp_path / "checkpoint")
    if damage is not None:
        edited(folder, damage)
    last = outcomes(Damaged(experts, folder), monkeypatch)[-1]
    assert (last.name, last.ok) == ((check, False) if check else (OFFLINE[-1], True)), last.detail
