"""Which processors multiply 16-bit numbers themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

products = pytest.importorskip("pipeline.serve.vllm_plugin.products", exc_type=ImportError)


@pytest.fixture(autouse=True)
def _found_anew() -> Iterator[None]:
    products.is_native.cache_clear()
    yield
    products.is_native.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "dtype", "native"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, torch.bfloat16, False),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, torch.bfloat16, True),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, torch.bfloat16, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "avx512_fp16": False}, torch.float16, False),
        ({"architecture": "x86_64", "sse2": True}, torch.float32, True),
        # Elsewhere oneDNN says it.
        ({"architecture": "aarch64", "bf16": True}, torch.bfloat16, True),
        ({}, torch.bfloat16, True),
    ],
)
def test_a_type_is_native_where_the_processor_has_instructions_for_it(
    capabilities: dict[str, object], dtype: torch.dtype, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(products.ops, "_supports_onednn", True, raising=False)
    # oneDNN makes products that it then emulates.
    monkeypatch.setattr(products, "_vllm_create", lambda: lambda weight, size: None)
    assert products.is_native(dtype) is native


def test_a_type_that_onednn_refuses_is_not_native(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(weight: torch.Tensor, size: int) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(products.ops, "_supports_onednn", True, raising=False)
    monkeypatch.setattr(products, "_vllm_create", lambda: refuse)
    assert products.is_native(torch.bfloat16) is False
