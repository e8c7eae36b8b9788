"""Does it fit into 24 GB?"""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.compare.memory_fit import GPU_PEAK, Fit, fit
from pipeline.results.base import Missing
from pipeline.results.bench import Memory

PER_TOKEN = 144 * 1024


def memory(weights: float, tokens: int = 100_000, peak: float | None = None, of: str = GPU_PEAK) -> Memory:
    return Memory(
        weights_bytes=int(weights),
        kv_bytes_per_token=PER_TOKEN,
        kv_cache_tokens=tokens,
        kv_cache_bytes=tokens * PER_TOKEN,
        peak_bytes=None if peak is None else int(peak),
        peak_of=of,
    )


def test_sixteen_gigabytes_of_weights_leave_room_for_a_few_conversations() -> None:
    found = fit(memory(16.4e9, peak=16.4e9 + 100_000 * PER_TOKEN + 2e9))
    assert isinstance(found, Fit)
    assert found.overhead_bytes == 2_000_000_000
    assert found.kv_tokens == int((21.6e9 - 18.4e9) // PER_TOKEN)


def test_what_is_larger_than_the_gpu_does_not_fit() -> None:
    found = fit(memory(30e9))
    assert isinstance(found, Fit)
    assert not found.fits


def test_a_cpus_processes_say_nothing_of_a_gpus_overhead() -> None:
    found = fit(memory(5e9, peak=20e9, of="what the server's processes held"))
    assert isinstance(found, Fit)
    assert found.overhead_bytes is None


def test_nothing_recorded_nothing_said() -> None:
    assert isinstance(fit(None), Missing)
    unknown = Memory(
        weights_bytes=None, kv_bytes_per_token=1, kv_cache_tokens=1, kv_cache_bytes=1, peak_bytes=1, peak_of=""
    )
    assert isinstance(fit(unknown), Missing)


@given(st.floats(1e9, 4e10), st.floats(8, 80), st.floats(8, 80))
def test_a_larger_gpu_never_holds_less(weights: float, one: float, other: float) -> None:
    small, large = sorted((one, other))
    less, more = fit(memory(weights), small), fit(memory(weights), large)
    assert isinstance(less, Fit)
    assert isinstance(more, Fit)
    assert less.kv_tokens <= more.kv_tokens
