"""What a benchmark depends on: each fact is in its identity, and nothing else is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import Stage
from pipeline.models import generation
from pipeline.stages import bench


def identity(settings: Any, **changes: Any) -> dict[str, Any]:
    artifacts = {Stage.QUANTIZE: SimpleNamespace(key="q"), Stage.BENCH: SimpleNamespace(key="own")}
    job: Any = SimpleNamespace(
        settings=settings,
        variant="awq",
        reference=None,
        artifact=artifacts.get,
        serving=SimpleNamespace(identity=lambda settings: {"vllm": "1"}),
        hardware=SimpleNamespace(model_dump=lambda include: dict.fromkeys(sorted(include), "here")),
        model=SimpleNamespace(shape_folder=SHAPE),
        digests={},
        block=0,
        part="",
    )
    vars(job).update(changes)
    return dict(bench.identity(job))


def other(variant: str) -> Any:
    return SimpleNamespace(variant=variant, artifact={Stage.BENCH: SimpleNamespace(key=f"of {variant}")}.get)


@pytest.fixture
def random(settings: Any) -> Any:
    return settings("bench=throughput")


SHAPE = Path("nowhere")
CLIMB = "+bench.ladder={concurrency: [1]}"


def test_a_benchmark_is_of_a_checkpoint_a_server_loads_and_a_machine(random: Any) -> None:
    found = identity(random)
    assert set(found) == {"quantize", "serve", "bench", "dataset", "hardware"}
    assert (found["quantize"], found["serve"], found["dataset"]) == ("q", {"vllm": "1"}, None)
    assert found["hardware"] == {"cores": "here", "device": "here", "name": "here"}
    left_out = set(random.bench.model_dump()) - set(found["bench"])
    assert left_out == {"name", "dataset", "timeout_s", "blocks", "budget_minutes"}


def test_conversations_are_part_of_it(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "identity_of", lambda dataset, name, digests: (dataset, name))
    given = settings()
    assert identity(given)["dataset"] == (given.bench.dataset, "bench.dataset")


def test_the_first_block_and_a_whole_benchmark_are_not_named(random: Any) -> None:
    assert identity(random, block=1)["block"] == 1
    assert identity(random, part="first")["part"] == "first"


def test_the_loads_of_a_ladder_depend_on_another_variants_benchmark(settings: Any, random: Any) -> None:
    ladder = settings("bench=throughput", CLIMB)
    assert identity(ladder, reference=other("bf16"))["reference"] == "of bf16"
    assert "reference" not in identity(ladder, reference=other("awq")), "a block of its own variant"
    assert "reference" not in identity(ladder)
    assert "reference" not in identity(random, reference=other("bf16"))


def test_a_server_of_the_users_has_no_checkpoint(settings: Any) -> None:
    theirs = settings("stage=bench", "quant=bf16", "bench=throughput", "serve.url=http://127.0.0.1:9")
    assert "quantize" not in identity(theirs)
    assert bench.needs(theirs) == () and bench.needs(settings()) == (Stage.QUANTIZE, Stage.VERIFY)


@pytest.mark.parametrize(
    ("temperature", "named", "neutral"),
    [
        (0.0, {"temperature": 0.6, "top_p": 0.9}, False),
        (0.0, {"repetition_penalty": 1.1}, True),
        (0.7, {"top_p": 0.9}, True),
        (0.7, {"temperature": 0.6}, False),
        (0.7, {}, False),
        (None, {"top_p": 0.9, "repetition_penalty": 1.1}, False),
    ],
)
def test_a_generation_config_that_would_change_replies_is_told(
    settings: Any, monkeypatch: pytest.MonkeyPatch, temperature: float | None, named: dict[str, float], neutral: bool
) -> None:
    assert "repetition_penalty" in generation.PENALTIES
    monkeypatch.setattr(bench.generation, "named", lambda folder: named if folder == SHAPE else {})
    value = "null" if temperature is None else temperature
    found = identity(settings("bench=throughput", f"bench.temperature={value}"))
    assert found.get("decoding") == ("neutral" if neutral else None)
