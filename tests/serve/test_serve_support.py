"""Formats that a machine serves side by side, of which a mix is made."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pipeline.config import Settings
from pipeline.demo import CHECKPOINT
from pipeline.hardware.gpus import GPUS
from pipeline.hardware.rules import EMULATION, LOCKED, Vllm
from pipeline.models.architecture import read_config
from pipeline.serve.support import of_quant, with_candidates

ALL = "quant.candidates=[W4A16,NVFP4,FP8_DYNAMIC,FP8_BLOCK,W8A8]"
GPU = {gpu.key: gpu for gpu in GPUS}


def source(**changed: object):
    """A model that is known by its config alone."""
    return SimpleNamespace(
        config={**read_config(CHECKPOINT), **changed}, settings=SimpleNamespace(path=None), is_random=True
    )


def kept(settings: Settings, machine, vllm: Vllm = LOCKED, **changed: object) -> tuple[str, ...]:
    return with_candidates(source(**changed), settings, machine, vllm).quant.candidates


@pytest.fixture
def given(settings: Callable[..., Settings]) -> Settings:
    return settings("quant=mixed", ALL, "quant.group_size=64")


@pytest.mark.parametrize(
    ("gpu", "served"),
    [
        ("h100_sxm", ("W4A16", "NVFP4", "FP8_DYNAMIC", "FP8_BLOCK", "W8A8")),
        # vLLM's default kernel of INT8 has no products there.
        ("b200", ("W4A16", "NVFP4", "FP8_DYNAMIC", "FP8_BLOCK")),
    ],
)
def test_a_mix_is_made_of_what_the_target_serves(gpu: str, served: tuple[str, ...], given: Settings) -> None:
    assert kept(given, GPU[gpu]) == served


def test_formats_that_do_not_fit_the_shapes_are_left_out(given: Settings) -> None:
    # 128 divides neither of SmolLM2's sizes.
    found = kept(given, GPU["h100_sxm"], hidden_size=576, num_attention_heads=9, num_key_value_heads=3)
    assert found == ("W4A16", "NVFP4", "FP8_DYNAMIC", "W8A8")


def cpu(*features: str):
    return SimpleNamespace(name="a CPU", compute_capability=None, cpu_features=features)


def test_formats_with_kernels_are_not_mixed_with_emulated_ones(given: Settings) -> None:
    vllm = Vllm(LOCKED.release, LOCKED.packages | {EMULATION})
    recent = cpu("avx512f", "avx512_vnni")
    with_kernels, without = kept(given, recent, vllm), kept(given, cpu(), vllm)
    supports = {name: of_quant(given.quant.candidate(name), recent, vllm).support for name in given.quant.candidates}
    assert with_kernels == tuple(name for name, support in supports.items() if support == "native")
    assert {"W4A16", "W8A8"} <= {*with_kernels}
    assert {"W4A16", "W8A8"} <= {*without} and "NVFP4" not in without
    assert of_quant(given.quant, cpu(), vllm).support == "emulated"


def test_a_mix_that_nothing_serves_is_refused_by_name(given: Settings) -> None:
    alone = Vllm(LOCKED.release, frozenset())
    found = of_quant(given.quant, cpu(), alone)
    assert found.support == "no" and found.reason.startswith("a CPU serves none of W4A16, NVFP4")
    assert kept(given, cpu(), alone) == given.quant.candidates


def test_other_formats_are_as_they_were(settings: Callable[..., Settings]) -> None:
    plain = settings("quant=w4a16")
    assert with_candidates(source(), plain, GPU["h100_sxm"]) is plain
