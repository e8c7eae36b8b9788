"""Every number format, through everything that looks it up."""

import json
import math
import subprocess
import sys

import pytest
import torch

from pipeline.errors import UnknownFormat
from pipeline.formats import elements, layouts
from pipeline.formats.blocks import BLOCKS
from pipeline.formats.elements import ELEMENTS
from pipeline.formats.layouts import LAYOUTS, MARKS, Packing, layout_of, possible
from pipeline.formats.rounding import relative_error, rounded
from pipeline.formats.schemes import CALIBRATED, SCHEMES
from pipeline.hardware import rules
from pipeline.hardware.gpus import GPUS
from pipeline.hardware.vllm_kernels import SERVED
from pipeline.stages.verify.canary import relative_rounding

OUT, WIDTH = 64, 512
WRITTEN = [(name, engine) for name, scheme in SCHEMES.items() for engine in scheme.layouts]
DTYPES = {
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I8": torch.int8,
    "U8": torch.uint8,
}


def filled(name: str, kind: str, shape: tuple[int, ...], packing: Packing) -> torch.Tensor:
    """A tensor of a type and shape with values that it can have."""
    if name == "weight_shape":
        return torch.tensor([OUT, WIDTH])
    if name == "g_idx":
        return (torch.arange(WIDTH) // (packing.group or WIDTH)).int()
    if name.endswith("bitsandbytes__nf4"):
        state = {"blocksize": packing.group, "shape": [OUT, WIDTH], "nested_blocksize": 256, "nested_offset": 0.01}
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    dtype = DTYPES[kind]
    if dtype is torch.uint8 and name == "weight_scale":
        return torch.randint(120, 130, shape).to(dtype)
    if dtype.is_floating_point:
        return (torch.rand(shape) + 0.1).to(dtype)
    ends = torch.iinfo(dtype)
    return torch.randint(ends.min, ends.max, shape).to(dtype)


@pytest.mark.parametrize(("name", "engine"), WRITTEN)
@pytest.mark.parametrize("nested", [False, True])
def test_what_is_stored_is_marked_unpacked_and_has_scales_that_can_be(name: str, engine: str, nested: bool) -> None:
    scheme = SCHEMES[name]
    layout, packing = scheme.layouts[engine], scheme.packing(scheme.group, nested)
    tensors = {
        own: filled(own, kind, shape, packing) for own, (kind, shape) in layout.fields((OUT, WIDTH), packing).items()
    }
    assert layout_of(layout.name) is layout
    assert any(f".{own}" in MARKS for own in tensors)
    weight = layout.unpack(tensors, packing.bits)
    assert (weight.dtype, tuple(weight.shape)) == (torch.float32, (OUT, WIDTH))
    assert bool(weight.isfinite().all())
    scales = {own: kind for own, kind in layout.scales.items() if own in tensors}
    assert scales
    for own, kind in scales.items():
        assert bool(possible(kind, tensors[own]).all())
        broken = tensors[own].clone()
        broken.view(-1)[0] = elements.E8M0_NAN if kind == "codes" else 0 if kind in ("positive", "not zero") else -1
        if broken.dtype is not torch.uint8 or kind == "codes":
            assert not bool(possible(kind, broken).all())


@pytest.mark.parametrize("name", SCHEMES)
def test_bits_are_those_that_are_stored(name: str) -> None:
    scheme = SCHEMES[name]
    for engine, layout in scheme.layouts.items():
        fields = layout.fields((OUT, WIDTH), scheme.packing(scheme.group))
        weights = [fields[own] for own in ("weight", "weight_packed", "qweight") if own in fields]
        stored = sum(8 * DTYPES[kind].itemsize * math.prod(shape) for kind, shape in weights)
        assert stored == scheme.bits * OUT * WIDTH, engine
    assert set(scheme.engines) == (set(scheme.layouts) or {"gguf"})


@pytest.mark.parametrize("name", [*(name for name, scheme in SCHEMES.items() if scheme.round), *BLOCKS])
def test_rounding_again_moves_less(name: str) -> None:
    """Exactly nothing where the largest number of a block is one of the format; integers leave out half a step."""
    weight = torch.randn(OUT, WIDTH, generator=torch.Generator().manual_seed(7))
    group = SCHEMES[name].group if name in SCHEMES else None
    once = rounded(weight, name, group)
    again = relative_error(once, rounded(once, name, group))
    if ("FP" in name and name != "W4AFP8") or name == "NF4":
        assert again < 1e-6
    assert again < relative_error(weight, once)


@pytest.mark.parametrize("name", SCHEMES)
def test_its_numbers_and_what_serves_it_are_known(name: str) -> None:
    scheme = SCHEMES[name]
    assert 0 < relative_rounding(scheme.activations) < 0.2
    assert scheme.static is None or CALIBRATED[scheme.static] is ELEMENTS[scheme.static]
    assert scheme.served in SERVED
    assert all(rules.of_scheme(name, gpu).support in ("native", "no") for gpu in GPUS)
    if scheme.mixture is not None:
        assert {scheme.mixture(f"model.layers.{n}.mlp.down_proj.weight", 8) for n in range(8)} <= set(BLOCKS)


def test_the_family_is_that_of_the_products() -> None:
    families = {name: scheme.family for name, scheme in SCHEMES.items()}
    only = ("W4A16", "W4A16_ASYM", "W8A16", "NF4", "Q4_K_M", "Q8_0", "NVFP4A16")
    assert {families[name] for name in only} == {"weights only"}
    both = ("FP8", "FP8_DYNAMIC", "FP8_BLOCK", "W8A8", "W4AFP8", "NVFP4", "MXFP8")
    assert {families[name] for name in both} == {"weights and activations"}


def test_nothing_is_left_over() -> None:
    assert {scheme.served for scheme in SCHEMES.values()} == set(SERVED)
    # What GPTQModel 2 and DeepSeek write is read, and not made here.
    made = {layout.name for scheme in SCHEMES.values() for layout in scheme.layouts.values()}
    assert set(LAYOUTS) - made == {layouts.GPTQ_V2.name, layouts.FP8_BLOCKS.name}


@pytest.mark.parametrize("ask", [lambda: rounded(torch.ones(2, 2), "Q5_0", None), lambda: layout_of("marlin_24")])
def test_what_is_not_known_is_said(ask) -> None:
    with pytest.raises(UnknownFormat):
        ask()


@pytest.mark.parametrize(
    ("element", "dtype"), [(elements.E4M3, torch.float8_e4m3fn), (elements.E5M2, torch.float8_e5m2)]
)
def test_the_numbers_of_eight_bits_are_torchs(element: elements.Element, dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    assert element.numbers == tuple(codes[codes.isfinite()].unique().tolist())


def test_the_numbers_of_four_bits_are_ocps() -> None:
    assert elements.E2M1.magnitudes == (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def test_looking_up_imports_no_torch() -> None:
    code = "import sys, pipeline.formats.rounding, pipeline.hardware.rules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_groups_blocks_and_flags_are_those_of_the_formats() -> None:
    """What README's table and the engines say, format by format."""
    groups = {name: scheme.group for name, scheme in SCHEMES.items() if scheme.group is not None}
    assert groups == {
        **dict.fromkeys(("W4AFP8", "W4A16", "W4A16_ASYM", "W8A16"), 128),
        **{"NF4": 64, "NVFP4": 16, "NVFP4A16": 16, "MXFP8": 32, "MXFP4": 32},
    }
    flags = {
        "group_is_free": {"W4A16", "W4A16_ASYM", "W8A16"},
        "nests": {"NF4"},
        "zero_points": {"W4A16_ASYM"},
        "per_tensor": {"FP8"},
        "shown_tokens": {"NVFP4"},
    }
    assert {flag: {name for name, scheme in SCHEMES.items() if getattr(scheme, flag)} for flag in flags} == flags
    mixed = {name: scheme.bits for name, scheme in SCHEMES.items() if scheme.mixture is not None}
    assert mixed == {"Q4_K_M": 4.5, "Q8_0": 8.5}
    divisors = {name: scheme.divisor for name, scheme in SCHEMES.items() if scheme.divisor != 1}
    assert divisors == {"FP8_BLOCK": 128, "Q4_K_M": 256, "Q8_0": 32}
    assert {name: scheme.block for name, scheme in SCHEMES.items() if scheme.block} == {"FP8_BLOCK": 128}
    assert {name: scheme.static for name, scheme in SCHEMES.items() if scheme.static} == {
        "FP8": "fp8_e4m3",
        "W8A8_STATIC": "int8",
    }


def test_the_packing_has_what_decides_how_a_weight_is_stored() -> None:
    assert SCHEMES["FP8"].packing(None) == Packing(bits=8, group=None, per_tensor=True, static=True)
    assert SCHEMES["W4A16_ASYM"].packing(64) == Packing(bits=4, group=64, zero_points=True, weights_only=True)
    assert SCHEMES["NF4"].packing(64, nested=True) == Packing(bits=4, group=64, weights_only=True, nested=True)
    assert SCHEMES["FP8_BLOCK"].packing(None) == Packing(bits=8, group=None, block=128)


@pytest.mark.parametrize("name", [name for name, scheme in SCHEMES.items() if scheme.round is not None])
def test_the_error_of_rounding_is_that_of_its_bits(name: str) -> None:
    """Gaussian weights, measured once: another number of bits or of weights with one scale is far off."""
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(11))
    found = relative_error(weight, rounded(weight, name, SCHEMES[name].group))
    expected = {
        **dict.fromkeys(("FP8", "FP8_DYNAMIC", "FP8_BLOCK"), 0.0263),
        **{"W8A8": 0.0073, "W8A8_STATIC": 0.0073, "LLM_INT8": 0.0073, "W8A16": 0.0065},
        **{"W4AFP8": 0.110, "W4A16": 0.110, "W4A16_ASYM": 0.100, "NF4": 0.0915},
        **{"Q8_0": 0.0056, "NVFP4": 0.0949, "NVFP4A16": 0.0949, "MXFP8": 0.0293, "MXFP4": 0.1147},
    }
    assert found == pytest.approx(expected[name], rel=0.03)
