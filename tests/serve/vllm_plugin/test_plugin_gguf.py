"""GGUF layers on a CPU: the numbers of the blocks, and nothing at all where the GGUF plugin is not installed."""

import importlib.util
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")
gguf = pytest.importorskip("gguf")

from pipeline.serve.vllm_plugin import gguf_layers  # noqa: E402


def test_without_the_plugin_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == gguf_layers.PACKAGE else found(name))
    monkeypatch.delitem(sys.modules, f"{gguf_layers.PACKAGE}.ops", raising=False)
    gguf_layers.install()
    assert f"{gguf_layers.PACKAGE}.ops" not in sys.modules


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "BF16"])
def test_blocks_become_the_numbers_that_they_stand_for(kind: str) -> None:
    weight = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    number = gguf.GGMLQuantizationType[kind]
    blocks = gguf.quants.quantize(weight, number)
    decoded = gguf_layers.decode(torch.from_numpy(blocks), int(number))
    assert torch.equal(decoded, torch.from_numpy(gguf.quants.dequantize(blocks, number)))
    assert (decoded - torch.from_numpy(weight)).norm() < 0.1 * np.linalg.norm(weight)


def test_a_missing_kernel_is_named_when_it_is_asked_for() -> None:
    with pytest.raises(NotImplementedError, match="ggml_moe_a8"):
        gguf_layers._NoKernels("ops").ggml_moe_a8  # noqa: B018
