"""Sizes of Linears by the settings that state them, and as vLLM loads them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.tiny_sources import CONFIG, tensors_of

from pipeline.config import Settings
from pipeline.errors import ConfigError
from pipeline.hardware.gpus import GPUS
from pipeline.models.shapes import check_shapes, loaded_shapes, sizes, with_group_size
from pipeline.serve.support import of_settings

BY_KEY = {gpu.key: gpu for gpu in GPUS}
SMOLLM2 = {**CONFIG, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}


def headers_of(config: dict[str, Any]) -> Any:
    return {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in tensors_of(config).items()}


def test_sizes_are_those_that_a_tensor_has() -> None:
    config = {**CONFIG, "moe_intermediate_size": 96, "shared_expert_intermediate_size": 160}
    fused: Any = {"experts.down_proj": {"dtype": "BF16", "shape": [4, 256, 96], "data_offsets": [0, 1]}}
    assert sizes(config, fused) == {"hidden_size": 256, "moe_intermediate_size": 96}
    assert sizes(config, {})["shared_expert_intermediate_size"] == 160
    assert sizes({"kv_lora_rank": 512, "num_attention_heads": 4, "v_head_dim": 128}, {}) == {
        "kv_lora_rank": 512,
        "num_attention_heads*head_dim": 512,
    }
    assert sizes(CONFIG, headers_of(CONFIG))["num_key_value_heads*head_dim"] == 256


@pytest.mark.parametrize(
    ("config", "asked", "size", "title"),
    [
        (CONFIG, "quant=w4a16", 128, "W4A16"),
        (SMOLLM2, "quant=w4a16", 64, "W4A16, group_size=64"),
        (SMOLLM2, "quant=w4a16 quant.group_size=32", 32, "W4A16"),
        (SMOLLM2, "quant=gptq_int8", 64, "GPTQ INT8, group_size=64"),
        ({**CONFIG, "intermediate_size": 800}, "quant=awq", 32, "AWQ, group_size=32"),
        # A size that no tensor has decides nothing.
        ({**CONFIG, "shared_expert_intermediate_size": 96}, "quant=awq", 128, "AWQ"),
        # None fits: the check of the shapes says so.
        ({**CONFIG, "intermediate_size": 776}, "quant=awq", 128, "AWQ"),
        (SMOLLM2, "quant=fp8_static", None, "FP8 static"),
        (SMOLLM2, "quant=nvfp4a16", None, "NVFP4A16"),
    ],
)
def test_a_smaller_group_is_taken_where_the_schemes_own_does_not_fit(
    config: dict[str, Any], asked: str, size: int | None, title: str, settings: Callable[..., Settings]
) -> None:
    place = SimpleNamespace(path="somewhere", name="mine")
    tensors = headers_of({name: value for name, value in config.items() if "shared" not in name})
    source: Any = SimpleNamespace(config=config, tensors=tensors, settings=place, is_random=False)
    quant = with_group_size(source, settings(*asked.split())).quant
    assert (quant.group_size, quant.title) == (size, title)


@pytest.mark.parametrize("known", [True, False], ids=["headers", "config alone"])
@pytest.mark.parametrize(
    ("gpus", "shapes"),
    [
        (1, {(256, 1024), (512, 256), (256, 1536), (768, 256)}),
        (2, {(256, 512), (256, 256), (256, 768), (384, 256)}),
        # Four key-value heads are copied to two GPUs each.
        (8, {(256, 64 + 2 * 64), (64, 256), (256, 192), (96, 256)}),
    ],
)
def test_shapes_are_those_of_one_gpus_part_of_fused_weights(
    gpus: int, shapes: set[tuple[int, int]], known: bool
) -> None:
    assert loaded_shapes(CONFIG, headers_of(CONFIG) if known else {}, gpus) == shapes


def test_whole_experts_are_not_divided(settings: Callable[..., Settings]) -> None:
    config = {**CONFIG, "moe_intermediate_size": 128, "intermediate_size": 1024}
    check_shapes(
        "m",
        settings("quant=awq", "serve.tensor_parallel=2", "serve.extra_args=['--enable-expert-parallel']"),
        config,
        {},
    )
    with pytest.raises(ConfigError, match="moe_intermediate_size/2=64"):
        check_shapes("m", settings("quant=awq", "serve.tensor_parallel=2"), config, {})


@pytest.mark.parametrize(
    ("overrides", "support", "said"),
    [
        # q, k and v have 960 outputs, which Machete's 128 do not divide; gate and up have 3,072.
        (("quant=w4a16",), "native", "Machete and Humming"),
        (
            ("quant=w4a16", "serve.kernel=machete"),
            "no",
            "serve.kernel=machete: Machete takes inputs in multiples of 64",
        ),
        (("quant=w4a16", "serve.kernel=marlin"), "native", "Marlin"),
        (("quant=fp8_dynamic",), "native", "CUTLASS"),
    ],
)
def test_a_kernel_takes_the_weights_whose_shape_fits(
    overrides: tuple[str, ...], support: str, said: str, settings: Callable[..., Settings]
) -> None:
    asked = settings(*overrides, *(["quant.group_size=64"] if "quant=w4a16" in overrides else []))
    found = of_settings(asked, BY_KEY["h100_sxm"], shapes=loaded_shapes(SMOLLM2, {}))
    assert (found.support, said in f"{found.by}; {found.reason}") == (support, True), found
    assert of_settings(asked, BY_KEY["h100_sxm"]).support == "native"
