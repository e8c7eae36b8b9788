"""Against a real vLLM server: one request for a question gives what `echo` gives, and lm-eval's own client agrees."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from support.settings import settings_of

from pipeline.compare.stats.kl_divergence import DivergenceCell, diverge
from pipeline.config import DivergenceSettings, Settings, TaskSettings
from pipeline.demo import BENCHMARK, CHECKPOINT, TASKS
from pipeline.errors import ServerError
from pipeline.results.records import Logprobs
from pipeline.serve.server import SERVED_NAME, Server
from pipeline.stages.eval.divergence import collect, read_texts
from pipeline.stages.eval.endpoint import Endpoint
from pipeline.stages.eval.model import ServedModel
from pipeline.tasks import lm_eval_tasks

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not (CHECKPOINT / "config.json").is_file(), reason=f"{CHECKPOINT} is not there"),
]
CONCURRENT = 16
# Requests of lm-eval that one client is given before it is the other's turn: fifty questions.
TURN = 200


@pytest.fixture(scope="module")
def settings() -> Settings:
    return settings_of("eval.limit=100")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def questions(settings: Settings) -> list[Instance]:
    """A hundred questions of each multiple-choice task, as lm-eval asks them."""
    found = []
    for name in ("demo_ceval", "demo_mmlu"):
        asked = lm_eval_tasks.load(name, TaskSettings(task=name, metric="acc"), settings.eval)
        (task,) = asked.tasks.values()
        with lm_eval_tasks.quiet():
            task.build_all_requests(samples=asked.items[name])
        found += task.instances
    assert len(found) == 800
    return found


@pytest.fixture
def model(vllm_server: Server, tokenizer: Any) -> Callable[..., ServedModel]:
    endpoint = Endpoint(vllm_server.url, SERVED_NAME, CONCURRENT, vllm_server.check_alive)
    return lambda **changes: ServedModel(endpoint, tokenizer, max_gen_toks=64, **changes)


@pytest.fixture
def standard(vllm_server: Server, model: Callable[..., ServedModel], monkeypatch: pytest.MonkeyPatch) -> Any:
    """lm-eval's own client, as a user would set it up."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    monkeypatch.setenv("TQDM_DISABLE", "1")
    return LocalCompletionsAPI(
        base_url=f"{vllm_server.url}/v1/completions",
        model=SERVED_NAME,
        tokenizer=str(CHECKPOINT),
        tokenizer_backend="huggingface",
        num_concurrent=CONCURRENT,
        max_length=model().endpoint.context,
        max_gen_toks=64,
    )


def choices(values: list[tuple[float, bool]]) -> list[int]:
    groups = [values[start : start + 4] for start in range(0, len(values), 4)]
    return [max(range(4), key=lambda i: group[i][0]) for group in groups]


def test_one_request_a_question_gives_the_values_of_echo(
    model: Callable[..., ServedModel], standard: Any, questions: list[Instance]
) -> None:
    clients = {"fast": model(), "lm-eval": standard}
    model().loglikelihood(questions[:64])  # the server's first batch is slower than all others
    seconds, values = dict.fromkeys(clients, 0.0), {name: [] for name in clients}
    # In turns, so that whatever else the machine does falls on both.
    for start in range(0, len(questions), TURN):
        for name, client in clients.items():
            started = time.monotonic()
            values[name] += client.loglikelihood(questions[start : start + TURN])
            seconds[name] += time.monotonic() - started
    number = len(questions) // 4
    gaps = [abs(a[0] - b[0]) for a, b in zip(values["fast"], values["lm-eval"], strict=True)]
    differing = sum(a != b for a, b in zip(choices(values["fast"]), choices(values["lm-eval"]), strict=True))
    rates = {name: f"{number / s:.1f}/s" for name, s in seconds.items()}
    print(f"{rates}; {differing} of {number} choices differ; largest gap {max(gaps):.5f} nats", file=sys.stderr)
    assert differing <= 0.005 * number
    # Sums over another batch are rounded otherwise; BF16 keeps 8 bits.
    assert max(gaps) < 0.1
    assert sum(gaps) / len(gaps) < 0.01
    assert seconds["fast"] < seconds["lm-eval"] / 2
    echoed = model(fast_choice=False).loglikelihood(questions[:TURN])
    assert [value for value, _ in echoed] == pytest.approx([value for value, _ in values["lm-eval"][:TURN]], abs=0.1)


def test_asked_twice_the_choices_are_the_same(model: Callable[..., ServedModel], questions: list[Instance]) -> None:
    first, second = (choices(model().loglikelihood(questions)) for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_asked_twice_greedy_generations_are_nearly_the_same(
    model: Callable[..., ServedModel], settings: Settings
) -> None:
    wanted = TaskSettings(task="demo_gsm8k", metric="exact_match", filter="strict-match")
    asked = lm_eval_tasks.load("x", wanted, settings.eval)
    (task,) = asked.tasks.values()
    with lm_eval_tasks.quiet():
        task.build_all_requests(samples=asked.items["demo_gsm8k"][:100])
    first, second = (model().generate_until(task.instances) for _ in range(2))
    differing = sum(a != b for a, b in zip(first, second, strict=True)) / len(first)
    print(f"{differing:.1%} of {len(first)} greedy generations differ when asked again", file=sys.stderr)
    # Batches are put together otherwise, and sums may round otherwise.
    assert differing <= 0.05


def test_generation_is_lm_evals(model: Callable[..., ServedModel], standard: Any, settings: Settings) -> None:
    asked = lm_eval_tasks.load(
        "x", TaskSettings(task="demo_gsm8k", metric="exact_match", filter="strict-match"), settings.eval
    )
    (task,) = asked.tasks.values()
    with lm_eval_tasks.quiet():
        task.build_all_requests(samples=asked.items["demo_gsm8k"][:64])
    # No more stop strings than the standard client may send.
    for instance in task.instances:
        instance.arguments = (instance.args[0], {"until": ["Question:", "\n\n"], "max_gen_toks": 48})
    ours, theirs = model().generate_until(task.instances), standard.generate_until(task.instances)
    differing = sum(a != b for a, b in zip(ours, theirs, strict=True))
    print(f"{differing} of {len(ours)} greedy generations differ", file=sys.stderr)
    assert differing <= 0.1 * len(ours)


def test_a_long_option_and_a_long_prompt_are_scored(model: Callable[..., ServedModel]) -> None:
    draw = random.Random(0)
    long = " ".join(draw.choices(["rain", "sun", "seven", "Where"], k=3000))
    asked = model()
    instances = [
        Instance("loglikelihood", {}, (context, option), i, ("task", number, 1))
        for number, (context, options) in enumerate(
            [("What is 1 + 1?", [" 2", " a long answer"]), (long, [" A", " B"])]
        )
        for i, option in enumerate(options)
    ]
    values = asked.loglikelihood(instances)
    assert all(-200 < value < 0 for value, _ in values)
    assert asked.tally.facts()["truncated"] == 1


def test_more_stop_strings_than_the_server_takes(model: Callable[..., ServedModel]) -> None:
    instance = Instance(
        "generate_until",
        {},
        ("def f(x):\n", {"until": ["\nclass", "\ndef", "\n#", "\nif", "\nprint", "<|im_end|>"]}),
        0,
    )
    assert isinstance(model().generate_until([instance])[0], str)


def test_task_files_are_where_the_demo_says() -> None:
    assert Path(TASKS, "demo_mmlu.yaml").is_file()


def test_bf16_does_not_diverge_from_itself(tokenizer: Any, vllm_server: Server) -> None:
    asked = {"dataset": {"path": BENCHMARK}, "num_sequences": 12, "max_seq_length": 256}
    texts = read_texts(DivergenceSettings.model_validate(asked), tokenizer)
    # Other batches, other sums: what is left is the floor of the instrument.
    first, again = (
        Logprobs(**collect(texts, 20, Endpoint(vllm_server.url, SERVED_NAME, n, vllm_server.check_alive)))
        for n in (2, 16)
    )
    with pytest.raises(ServerError, match="prompt_logprobs|logprobs"):
        collect(texts, 21, Endpoint(vllm_server.url, SERVED_NAME, 2, vllm_server.check_alive))
    found = diverge(again, first)
    assert isinstance(found, DivergenceCell)
    assert found.kl.value < 1e-4 and found.agreement.value > 0.99
    assert (np.diff(first.top_logprobs, axis=1) <= 0).all() and (np.exp(first.top_logprobs).sum(axis=1) < 1.001).all()


def test_a_prompt_in_tokens_has_the_log_probabilities_of_one_in_text(tokenizer: Any, vllm_server: Server) -> None:
    asked = {"dataset": {"path": BENCHMARK}, "num_sequences": 4, "max_seq_length": 128}
    texts = read_texts(DivergenceSettings.model_validate(asked), tokenizer)
    # One at a time, so that sums are rounded alike.
    in_tokens, in_text = (Endpoint(vllm_server.url, SERVED_NAME, 1, vllm_server.check_alive) for _ in range(2))
    assert in_tokens.takes_tokens
    in_text.takes_tokens = False
    ours, theirs = collect(texts, 20, in_tokens), collect(texts, 20, in_text)
    for name, values in ours.items():
        assert np.array_equal(values, theirs[name]), name
