"""The gate's comparison of weights: what a format explains passes, what it does not is found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipeline.config import QuantSettings
from pipeline.demo import CHECKPOINT
from pipeline.errors import UnknownFormat
from pipeline.formats import rounding
from pipeline.formats.schemes import SCHEMES
from pipeline.models.rescaling import Factors
from pipeline.stages.verify.weights import changed, compare, nearest_errors

MODULE = "model.layers.1.mlp.up_proj"
NORM = "model.layers.1.post_attention_layernorm.weight"


def failures(folder: Path, quant: QuantSettings) -> set[str]:
    found = compare(folder, CHECKPOINT, quant)
    assert len(found) == 28
    return {item.module for item in found if item.excess > 1}


@pytest.mark.parametrize(
    "given",
    [
        ("w4a16",),
        ("awq",),
        ("int8_dynamic", "quant.algorithm=smoothquant"),
        ("int8_dynamic", "quant.algorithm=smoothquant_gptq"),
        ("mxfp4",),
        ("nvfp4",),
    ],
)
def test_what_the_engine_wrote_is_what_rounding_explains(given: tuple[str, ...], checkpoint, settings) -> None:
    quant, *overrides = given
    assert failures(checkpoint(*given), settings(f"quant={quant}", *overrides).quant) == set()


def wrong_scale(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{MODULE}.weight_scale"] *= 1.25


def scales_of_another_order(tensors: dict[str, torch.Tensor]) -> None:
    scale = tensors[f"{MODULE}.weight_scale"]
    tensors[f"{MODULE}.weight_scale"] = scale.flip(0).contiguous()


def swapped_packing(tensors: dict[str, torch.Tensor]) -> None:
    packed = tensors[f"{MODULE}.weight_packed"]
    # Neighbouring integers change places, as between two packing orders.
    low, high = packed & 0x0F0F0F0F, (packed >> 4) & 0x0F0F0F0F
    tensors[f"{MODULE}.weight_packed"] = (low << 4) | high


def shifted_zero_point(tensors: dict[str, torch.Tensor]) -> None:
    from pipeline.formats.unpack import unpack

    packed = tensors[f"{MODULE}.weight_packed"]
    moved = (unpack(packed, 4, 1) + 1).clamp_max(15).reshape(packed.shape[0], -1, 8)
    tensors[f"{MODULE}.weight_packed"] = (moved << torch.arange(0, 32, 4, dtype=torch.int32)).sum(-1, dtype=torch.int32)


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{MODULE}.weight_scale"][0, 0] = float("nan")


def forgotten_norm(tensors: dict[str, torch.Tensor]) -> None:
    tensors[NORM] = load_file(CHECKPOINT / "model.safetensors")[NORM]


def factors_of_other_channels(tensors: dict[str, torch.Tensor]) -> None:
    tensors[NORM] = tensors[NORM].roll(1)


def shifted_zero_points(tensors: dict[str, torch.Tensor]) -> None:
    from pipeline.formats.unpack import unpack

    packed = tensors[f"{MODULE}.weight_zero_point"]
    moved = (unpack(packed, 4, 0) ^ 1).t().reshape(packed.shape[1], -1, 8)
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    tensors[f"{MODULE}.weight_zero_point"] = (moved << shifts).sum(-1, dtype=torch.int32).t().contiguous()


def swapped_nibbles(tensors: dict[str, torch.Tensor]) -> None:
    packed = tensors[f"{MODULE}.weight_packed"]
    tensors[f"{MODULE}.weight_packed"] = (packed << 4) | (packed >> 4)


def scales_off_by_a_power_of_two(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{MODULE}.weight_scale"] += 1


def divisor_taken_for_a_factor(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{MODULE}.weight_global_scale"] = 1 / tensors[f"{MODULE}.weight_global_scale"]


def wrong_scale_in_front(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight_scale"] *= 1.25


GATE, UP, DOWN = (f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down"))
SMOOTHED = "int8_dynamic quant.algorithm=smoothquant_gptq"
FAULTS: list[tuple[str, Callable[[dict[str, torch.Tensor]], None], set[str]]] = [
    *(
        ("w4a16", damage, {MODULE})
        for damage in (wrong_scale, scales_of_another_order, swapped_packing, shifted_zero_point, not_a_number)
    ),
    ("gptq", wrong_scale, {MODULE}),
    ("gptq", scales_of_another_order, {MODULE}),
    *((SMOOTHED, damage, {GATE, UP}) for damage in (forgotten_norm, factors_of_other_channels)),
    (SMOOTHED, wrong_scale, {MODULE}),
    (SMOOTHED, scales_of_another_order, {MODULE}),
    # What is wrong in front of up_proj is taken in part for what AWQ moved to down_proj, and missing there.
    ("awq", forgotten_norm, {GATE, UP, DOWN}),
    ("awq", factors_of_other_channels, {GATE, UP, DOWN}),
    ("awq", shifted_zero_points, {UP}),
    ("awq", swapped_packing, {UP, DOWN}),
    ("awq", not_a_number, {UP, DOWN}),
    # Least squares take it for what AWQ moved from up_proj to down_proj, where it is missing.
    ("awq", wrong_scale_in_front, {DOWN}),
    ("mxfp4", swapped_nibbles, {MODULE}),
    ("mxfp4", scales_off_by_a_power_of_two, {MODULE}),
    ("nvfp4", swapped_nibbles, {MODULE}),
    ("nvfp4", divisor_taken_for_a_factor, {MODULE}),
]


@pytest.mark.parametrize(
    ("quant", "damage", "found"), FAULTS, ids=[f"{quant}-{damage.__name__}" for quant, damage, _ in FAULTS]
)
def test_a_planted_fault_is_found_in_its_module(
    quant: str,
    damage: Callable[[dict[str, torch.Tensor]], None],
    found: set[str],
    checkpoint,
    tmp_path: Path,
    settings,
) -> None:
    name, *overrides = quant.split()
    made = checkpoint(name, *overrides)
    tensors = load_file(made / "model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((made / "config.json").read_bytes())
    assert failures(tmp_path, settings(f"quant={name}", *overrides).quant) == found


@pytest.mark.parametrize("quant", ["w4a16", "awq"])
def test_what_nothing_rounds_is_bf16s_bit_for_bit(quant: str, checkpoint, tmp_path: Path, settings) -> None:
    asked = settings(f"quant={quant}").quant
    assert changed(checkpoint(quant), CHECKPOINT, asked) == []
    tensors = load_file(checkpoint(quant) / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].roll(1, 0)
    tensors["model.layers.3.self_attn.q_norm.weight"][5] *= 1.01
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    expected = ["lm_head.weight", "model.layers.3.self_attn.q_norm.weight", "model.norm.weight"]
    assert changed(tmp_path, CHECKPOINT, asked) == expected


@pytest.mark.parametrize("tied", [False, True])
def test_a_missing_output_layer_is_found_unless_it_is_the_embeddings(
    tied: bool, checkpoint, tmp_path: Path, settings
) -> None:
    source, folder = tmp_path / "source", tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    shutil.copytree(checkpoint("w4a16"), folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"], tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    missing = ["model.norm.weight"] if tied else ["lm_head.weight", "model.norm.weight"]
    assert changed(folder, source, settings("quant=w4a16").quant) == missing


@given(seed=st.integers(0, 1000), spread=st.floats(0.1, 2))
def test_what_was_rescaled_is_recovered(seed: int, spread: float) -> None:
    """A rescaled weight that was rounded to nearest is as near as rounding explains, however far it was rescaled."""
    draw = torch.Generator().manual_seed(seed)
    factors = {name: (torch.randn(size, generator=draw) * spread).exp() for name, size in (("norm", 128), ("up", 256))}
    original = {
        "layers.0.post_attention_layernorm.weight": torch.rand(128, generator=draw) + 0.5,
        "layers.0.mlp.up_proj.weight": torch.randn(256, 128, generator=draw),
        "layers.0.mlp.down_proj.weight": torch.randn(128, 256, generator=draw),
    }
    norm, up, down = original
    stored = {norm: (original[norm] / factors["norm"]).bfloat16().float()}
    moved = {
        "layers.0.mlp.up_proj": original[up] * factors["norm"] / factors["up"][:, None],
        "layers.0.mlp.down_proj": original[down] * factors["up"],
    }
    images = {name: rounding.rounded(weight, "W4A16_ASYM", 32) for name, weight in moved.items()}
    pairs = {
        "layers.0.mlp.up_proj": "layers.0.post_attention_layernorm",
        "layers.0.mlp.down_proj": "layers.0.mlp.up_proj",
    }
    found = Factors(pairs, 0.0, original.__getitem__, stored.__getitem__, images.__getitem__)
    for module, weight in (("layers.0.mlp.up_proj", original[up]), ("layers.0.mlp.down_proj", original[down])):
        scale = found.of(module)
        nearest = rounding.rounded(weight * scale, "W4A16_ASYM", 32) / scale
        assert rounding.relative_error(weight, images[module] / scale) <= 1.25 * rounding.relative_error(
            weight, nearest
        )


@given(st.integers(0, 1000), st.sampled_from([name for name in SCHEMES if SCHEMES[name].bits >= 8]))
def test_eight_bits_are_close_to_the_weight(seed: int, scheme: str) -> None:
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(seed))
    error = rounding.relative_error(weight, rounding.rounded(weight, scheme, SCHEMES[scheme].group))
    assert error < (0.05 if "FP8" in scheme else 0.02)


@given(st.integers(0, 1000), st.sampled_from([name for name in SCHEMES if SCHEMES[name].bits < 8 and name != "Q4_K_M"]))
def test_four_bits_are_about_a_tenth_away(seed: int, scheme: str) -> None:
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(seed))
    error = rounding.relative_error(weight, rounding.rounded(weight, scheme, SCHEMES[scheme].group))
    assert 0.04 < error < 0.2


@given(st.integers(0, 1000), st.sampled_from([name for name in SCHEMES if name not in ("Q4_K_M", "FP8")]))
def test_groups_keep_their_factor_and_a_wrong_scale_does_not(seed: int, scheme: str) -> None:
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(seed))
    group = SCHEMES[scheme].group
    image = rounding.rounded(weight, scheme, group)
    limit = rounding.limits(weight, image, group, "rtn").factor_error
    assert rounding.factor_error(weight, image, group) < limit
    assert rounding.factor_error(weight, 1.25 * image, group) > limit
    assert rounding.factor_error(weight, torch.full_like(image, torch.nan), group) == torch.inf


@pytest.mark.parametrize("division", [torch.float32, torch.bfloat16])
@given(st.integers(0, 1000), st.floats(0.01, 0.04))
def test_long_rows_leave_the_bias_of_fp8_and_of_the_division(division: torch.dtype, seed: int, spread: float) -> None:
    """Rows of Qwen3-8B: chance explains .0012 of a factor; a BF16 scale, and a quotient in BF16, bias it by more."""
    weight = (spread * torch.randn(16, 12288, generator=torch.Generator().manual_seed(seed))).bfloat16()
    scale = weight.abs().amax() / 448
    codes = (weight.to(division) / scale.to(division)).float().clamp(-448, 448).to(torch.float8_e4m3fn)
    weight, image = weight.float(), codes.float() * scale.float()
    limit = rounding.limits(weight, rounding.rounded(weight, "FP8", None), None, "rtn").factor_error
    assert rounding.factor_error(weight, image, None) < limit
    assert rounding.factor_error(weight, 1.01 * image, None) > limit


def test_rounding_twice_changes_nothing() -> None:
    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(3))
    for scheme in ("FP8", "FP8_DYNAMIC", "NF4"):
        once = rounding.rounded(weight, scheme, SCHEMES[scheme].group)
        assert torch.allclose(rounding.rounded(once, scheme, SCHEMES[scheme].group), once, rtol=1e-5)


def moved_row(folder: Path, row: int, steps: int) -> torch.Tensor:
    """Move every weight of a row by so many steps of INT8, as GPTQ does for a huge input; return the directions."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    weight = tensors[f"{MODULE}.weight"]
    signs = torch.tensor([1, -1], dtype=weight.dtype).repeat(weight.shape[1] // 2)
    weight[row] = (weight[row].int() + steps * signs).clamp(-127, 127).to(weight.dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    return signs.float()


@pytest.mark.parametrize(
    ("huge", "along", "worst"),
    [
        # The row loses most at it, and its move changes nothing there: neighbours move by opposite steps.
        (1000.0, "its loss", None),
        (1.0, "its loss", "row 7"),
        (1000.0, "another row's loss", "row 7"),
        (1000.0, "its loss and its move", "outputs of row 7"),
        (1000.0, "one channel, at which no row loses much more than others", "row 7"),
    ],
)
def test_what_gptq_moves_for_a_huge_input_is_judged_by_outputs(
    huge: float, along: str, worst: str | None, made, tmp_path: Path
) -> None:
    """Massive activations: the row that loses most to rounding is moved far, and its outputs are the better for it."""
    job, row = made("quant=int8_dynamic", "quant.algorithm=gptq"), 7
    folder = Path(shutil.copytree(job.checkpoint, tmp_path / "moved"))
    quant = job.settings.quant
    moved = moved_row(folder, row, 8)
    (found,) = [each for each in compare(folder, CHECKPOINT, quant) if each.module == MODULE]
    assert found.excess > 1 and found.parts[0].place == f"row {row}"
    original = load_file(CHECKPOINT / "model.safetensors")[f"{MODULE}.weight"].float()
    error = rounding.rounded(original, str(quant.scheme), None) - original
    # A mean over neighbours leaves nothing along the move.
    own, other = (unit(error[each].view(-1, 2).mean(1).repeat_interleave(2)) for each in (row, row + 1))
    one = torch.zeros_like(own).index_fill(0, torch.tensor(3), 1.0)
    inputs = torch.randn(64, original.shape[1], generator=torch.Generator().manual_seed(0))
    directions = {"its loss": own, "another row's loss": other, "its loss and its move": own + 0.3 * unit(moved)}
    inputs[0] = huge * directions.get(along, one) * original.shape[1] ** 0.5
    seen = compare(folder, CHECKPOINT, quant, lambda modules: dict.fromkeys(modules, inputs))
    wrong = [max(each.parts, key=lambda part: part.excess).place for each in seen if each.excess > 1]
    assert wrong == ([] if worst is None else [worst])


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm()


def test_rounding_to_nearest_is_known_of_the_modules_that_bf16_has(settings) -> None:
    quant = settings("quant=w4a16").quant
    weight = load_file(CHECKPOINT / "model.safetensors")[f"{MODULE}.weight"].float()
    expected = float((weight - rounding.rounded(weight, "W4A16", quant.effective_group_size)).norm() / weight.norm())
    assert nearest_errors(CHECKPOINT, {MODULE, "model.layers.9.mlp.up_proj"}, quant) == [pytest.approx(expected)]
    with pytest.raises(UnknownFormat, match="rounds"):
        nearest_errors(CHECKPOINT, {MODULE}, settings("quant=bf16").quant)
    with pytest.raises(UnknownFormat, match="rounds"):
        compare(CHECKPOINT, CHECKPOINT, settings("quant=bf16").quant)


class Tensors:
    """Tensors of a checkpoint by name: kept, changed, or not known to be either."""

    def __init__(self, **kinds: str) -> None:
        self.files = {name.replace("__", "."): kind for name, kind in kinds.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def __getitem__(self, name: str) -> str:
        return self.files[name]


def kept(name: str, kind: str) -> bool:
    if kind == "unknown":
        raise UnknownFormat(f"if {name} was rescaled")
    return kind == "kept"


@pytest.mark.parametrize("tied", [False, True])
def test_what_differs_counts_more_than_what_is_not_known(tied: bool, monkeypatch: pytest.MonkeyPatch, settings) -> None:
    before = Tensors(a__weight="", b="", c="", lm_head__weight="", q__weight="")
    after = Tensors(a__weight="kept", b="kept", c="unknown", lm_head__weight="kept", q__weight="changed")
    pair = SimpleNamespace(
        before=before, after=after, modules={"q"}, config={"tie_word_embeddings": tied}, is_kept=kept
    )
    monkeypatch.setattr("pipeline.models.pair.Pair", lambda folder, source, quant: pair)
    monkeypatch.setattr("pipeline.stages.verify.weights.gguf_file", lambda folder: None)
    quant = settings("quant=w4a16").quant
    with pytest.raises(UnknownFormat, match="if c was rescaled"):
        changed(Path(), Path(), quant)
    after.files["c"] = "kept"
    assert changed(Path(), Path(), quant) == []
    after.files |= {"c": "unknown", "b": "changed"}
    assert changed(Path(), Path(), quant) == ["b"]
    del after.files["a.weight"], after.files["lm_head.weight"]
    # Tied embeddings are stored once.
    assert changed(Path(), Path(), quant) == ["a.weight", "b", *([] if tied else ["lm_head.weight"])]
