"""The parts of a server's memory, and what is not known of them."""

from types import SimpleNamespace

import pytest

from pipeline.results.bench import Conditions, Memory
from pipeline.stages.bench.memory import memory

SHAPE = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}


def of(
    config: dict, tokens: int | None, *peaks: int | None, url: str | None = None, device: str = "cpu", gpus: int = 1
) -> Memory:
    artifact = SimpleNamespace(manifest=lambda: None)
    job = SimpleNamespace(
        settings=SimpleNamespace(
            serve=SimpleNamespace(url=url, tensor_parallel=gpus), kv_cache=SimpleNamespace(dtype="auto")
        ),
        model=SimpleNamespace(config=config),
        artifact=lambda stage: artifact,
        hardware=SimpleNamespace(device=device),
    )
    server = SimpleNamespace(facts=lambda: SimpleNamespace(kv_cache_tokens=tokens))
    repeats = [Conditions.model_construct(peak_memory_bytes=peak) for peak in peaks]
    return memory(job, server, repeats)


def test_the_cache_is_its_tokens_times_their_bytes() -> None:
    found = of(SHAPE, 1000, 5, 9, None)
    # Keys and values, 4 layers, 2 heads of 32 numbers of 2 bytes.
    assert (found.kv_bytes_per_token, found.kv_cache_bytes, found.peak_bytes) == (1024, 1_024_000, 9)


@pytest.mark.parametrize(("gpus", "each"), [(1, 1024), (2, 512), (4, 512)])
def test_a_gpu_caches_its_part_of_the_heads_and_one_at_least(gpus: int, each: int) -> None:
    assert of(SHAPE, 1000, gpus=gpus).kv_bytes_per_token == each


@pytest.mark.parametrize(("config", "tokens"), [(SHAPE, None), ({"num_hidden_layers": 4}, 1000)])
def test_where_one_factor_is_not_known_the_cache_is_not(config: dict, tokens: int | None) -> None:
    found = of(config, tokens, None)
    assert found.kv_cache_tokens == tokens
    assert found.kv_cache_bytes is None
    assert found.peak_bytes is None


def test_nothing_is_known_of_a_server_that_the_user_runs() -> None:
    found = of(SHAPE, 1000, url="http://127.0.0.1:9")
    assert (found.weights_bytes, found.kv_bytes_per_token, found.kv_cache_tokens, found.kv_cache_bytes) == (None,) * 4


@pytest.mark.parametrize(
    ("device", "text"), [("cuda", "the GPU's memory in use"), ("cpu", "what the server's processes held")]
)
def test_the_peak_is_said_to_be_of_what_was_observed(device: str, text: str) -> None:
    assert of(SHAPE, 1000, 5, device=device).peak_of == text
