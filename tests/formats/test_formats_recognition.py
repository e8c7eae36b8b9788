"""What others quantized is called by the scheme that it is exactly, and described in words otherwise."""

from typing import Any

import pytest
from compressed_tensors.quantization import preset_name_to_scheme

from pipeline.formats.recognition import NUMBERS, recognize
from pipeline.formats.schemes import SCHEMES


def packed(*groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {f"group_{index}": group for index, group in enumerate(groups)},
        **more,
    }


def preset(scheme: str) -> dict[str, Any]:
    """The numbers of a scheme as compressed-tensors itself writes them."""
    found = preset_name_to_scheme(scheme.removesuffix("_STATIC"), targets=["Linear"]).model_dump(mode="json")
    if scheme.endswith("_STATIC"):
        found["input_activations"] |= {"strategy": "tensor", "dynamic": False}
    return dict(found)


@pytest.mark.parametrize("scheme", [name for name, own in SCHEMES.items() if "llmcompressor" in own.engines])
def test_compressed_tensors_own_schemes_are_recognized(scheme: str) -> None:
    found = recognize(packed(preset(scheme)))
    assert (found.scheme, found.described) == (scheme, scheme)
    assert scheme in NUMBERS


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": True}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(
    ("config", "scheme", "described"),
    [
        (AWQ, "W4A16_ASYM", "W4A16_ASYM, groups of 64"),
        (AWQ | {"version": "gemv"}, None, "awq gemv, 4 bits, groups of 64"),
        (GPTQ, "W4A16", "W4A16"),
        (GPTQ | {"bits": 8}, "W8A16", "W8A16"),
        (GPTQ | {"bits": 3}, None, "gptq, 3 bits, groups of 128"),
        (GPTQ | {"sym": False}, None, "gptq, 4 bits, groups of 128, asymmetric"),
        (GPTQ | {"group_size": -1}, None, "gptq, 4 bits, groups of -1"),
        (GPTQ | {"dynamic": {"-:.*lm_head": {}}}, "W4A16", "W4A16"),
        (GPTQ | {"dynamic": {"+:.*down_proj": {"bits": 8}}}, None, "gptq, 4 bits, groups of 128, mixed"),
        (FP8, "FP8_BLOCK", "FP8_BLOCK"),
        (FP8 | {"weight_block_size": [64, 64]}, None, "fp8, blocks of [64, 64], activations dynamic"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "FP8", "FP8"),
        (NF4 | {"bnb_4bit_use_double_quant": True}, "NF4", "NF4"),
        (NF4 | {"bnb_4bit_quant_type": "fp4"}, None, "bitsandbytes fp4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "LLM_INT8", "LLM_INT8"),
        ({"quant_method": "aqlm", "nbits_per_codebook": 16}, None, "aqlm"),
        ({}, None, "a format that it does not name"),
        (
            packed(preset("FP8_DYNAMIC"), preset("W4A16")),
            None,
            "weights FP8 per channel, activations FP8 per token; weights INT4 per group",
        ),
        (
            packed(preset("W4A16"), sparsity_config={"format": "sparse-24-bitmask"}),
            None,
            "weights INT4 per group, pruned",
        ),
    ],
)
def test_a_format_is_its_scheme_or_what_it_is(config: dict[str, Any], scheme: str | None, described: str) -> None:
    found = recognize(config)
    assert (found.scheme, found.described) == (scheme, described)


def test_group_sizes_scales_of_scales_and_algorithms_are_read() -> None:
    assert recognize(AWQ).group == 64
    assert recognize(NF4 | {"bnb_4bit_use_double_quant": True}).nested
    assert not recognize(NF4).nested
    assert [recognize(each).algorithm for each in (AWQ, GPTQ, FP8, packed(preset("W4A16")))] == [
        *("awq", "gptq", "rtn", "unknown"),
    ]


def test_scales_of_another_size_are_another_format() -> None:
    group = preset("W4AFP8")
    group["weights"]["group_size"] = 64
    assert recognize(packed(group)).scheme is None
    own = preset("W4A16")
    own["weights"]["group_size"] = 32
    assert recognize(packed(own)).group == 32


def numbers(bits: int = 4, kind: str = "int", **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": kind, **more}


def weights(own: dict[str, Any] | None, inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"weights": own, "input_activations": inputs}


SIZELESS: tuple[dict[str, int], ...] = ({}, {"group_size": 0}, {"group_size": -1})


@pytest.mark.parametrize(
    ("config", "scheme", "described"),
    [
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 128}, "W4A16_ASYM", "W4A16_ASYM"),
        (AWQ | {"zero_point": False}, None, "awq gemm, 4 bits, groups of 64"),
        (AWQ | {"group_size": 1}, "W4A16_ASYM", "W4A16_ASYM, groups of 1"),
        *((AWQ | {"group_size": size}, None, f"awq gemm, 4 bits, groups of {size}") for size in (0, -1, None)),
        (AWQ | {"bits": 8}, None, "awq gemm, 8 bits, groups of 64"),
        (GPTQ | {"group_size": 1}, "W4A16", "W4A16, groups of 1"),
        *((GPTQ | {"group_size": size}, None, f"gptq, 4 bits, groups of {size}") for size in (0, None)),
        (GPTQ | {"bits": None}, None, "gptq, None bits, groups of 128"),
        *((GPTQ | {"bits": bits}, None, f"gptq, {bits} bits, groups of 128") for bits in (2, 5, 7, 9)),
        (GPTQ | {"checkpoint_format": "gptq_v2"}, "W4A16", "W4A16"),
        (GPTQ | {"checkpoint_format": "marlin"}, None, "gptq, 4 bits, groups of 128"),
        (GPTQ | {"dynamic": None}, "W4A16", "W4A16"),
        (FP8 | {"activation_scheme": "static"}, None, "fp8, blocks of [128, 128], activations static"),
        (FP8 | {"weight_block_size": [128, 64]}, None, "fp8, blocks of [128, 64], activations dynamic"),
        ({"quant_method": "fp8"}, None, "fp8, per tensor, activations dynamic"),
        (NF4, "NF4", "NF4"),
        (NF4 | {"bnb_4bit_quant_storage": "bfloat16"}, None, "bitsandbytes nf4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, None, "bitsandbytes fp4"),
        ({"quant_algo": "FP8"}, None, "FP8"),
        (packed(), None, "compressed-tensors"),
        ({"quant_method": "compressed-tensors", "config_groups": None}, None, "compressed-tensors"),
        (packed(weights(None)), None, "compressed-tensors without numbers of weights"),
        (packed(weights(numbers(3, group_size=64))), None, "weights INT3 per group"),
        (packed(weights(numbers(4, group_size=-1))), None, "weights INT4 per channel"),
        (packed(weights(numbers(4))), None, "weights INT4 per tensor"),
        # Groups without a size, or of none.
        *((packed(weights(numbers(4, strategy="group", **size))), None, "weights INT4 per group") for size in SIZELESS),
        (packed(weights({})), None, "compressed-tensors without numbers of weights"),
        (packed(weights({"strategy": "tensor"})), None, "weights INT8 per tensor"),
        (
            packed(weights(numbers(4, group_size=128, symmetric=False))),
            "W4A16_ASYM",
            "W4A16_ASYM",
        ),
        (
            packed(weights(numbers(8, strategy="tensor_group", symmetric=False))),
            None,
            "weights INT8 per tensor group, asymmetric",
        ),
        (
            packed(weights(numbers(8, "float", strategy="tensor"), numbers(8, "float", strategy="tensor"))),
            "FP8",
            "FP8",
        ),
        (
            packed(
                weights(
                    numbers(8, "float", strategy="tensor"),
                    numbers(8, "float", strategy="tensor", dynamic=True),
                )
            ),
            None,
            "weights FP8 per tensor, activations FP8 per tensor",
        ),
        (
            packed(preset("W4A16"), transform_config={"config_groups": {"R1": {}}}),
            None,
            "weights INT4 per group, rotated",
        ),
        (packed(preset("W4A16"), transform_config={}, sparsity_config={"format": "dense"}), "W4A16", "W4A16"),
        (packed(preset("W4A16"), sparsity_config={}), "W4A16", "W4A16"),
        # Two groups of modules with one format are one format, with two sizes of groups none.
        (packed(preset("W4A16"), preset("W4A16")), "W4A16", "W4A16"),
        (
            packed(preset("W4A16"), weights(numbers(4, group_size=32, strategy="group"))),
            None,
            "weights INT4 per group",
        ),
    ],
)
def test_one_field_may_make_it_another_format(config: dict[str, Any], scheme: str | None, described: str) -> None:
    found = recognize(config)
    assert (found.scheme, found.described) == (scheme, described)


def test_square_blocks_of_another_side_are_another_format() -> None:
    own = preset("FP8_BLOCK")
    assert recognize(packed(own)).scheme == "FP8_BLOCK"
    own["weights"]["block_structure"] = [64, 64]
    assert recognize(packed(own)).scheme is None


def test_only_a_free_group_size_is_told() -> None:
    assert recognize(packed(preset("NVFP4"))).group is None
    assert recognize(packed(preset("W4AFP8"))).group is None
    assert recognize(packed(preset("W4A16"))).group == 128
    assert recognize(GPTQ).group == 128
    assert [recognize({"quant_method": method}).algorithm for method in ("awq", "gptq", "fp8", "bitsandbytes")] == [
        *("awq", "gptq", "rtn", "rtn"),
    ]
