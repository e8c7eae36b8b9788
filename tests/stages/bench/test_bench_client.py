"""What vLLM's load generator is told: for `bench=study`, the study's own command."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import ServerError
from pipeline.stages.bench import plan
from pipeline.stages.bench.client import Client, Run
from pipeline.stages.bench.requests import Requests

STUDY = (
    "vllm bench serve --model Qwen/Qwen3-8B --endpoint-type openai-chat --endpoint /v1/chat/completions "
    "--dataset-name sharegpt --dataset-path ShareGPT_V3_unfiltered_cleaned_split.json --num-prompts 1000"
)
# What vLLM 0.9.2 called by another name.
RENAMED = {"--endpoint-type": "--backend"}
# Which server, whose tokenizer, what is written down, and how it is waited for: none of it changes what is sent.
ELSEWHERE = {
    *("--base-url", "--tokenizer", "--percentile-metrics", "--metric-percentiles", "--result-dir"),
    *("--result-filename", "--save-result", "--save-detailed", "--disable-tqdm", "--ready-check-timeout-sec"),
}


def options(words: list[str]) -> dict[str, str]:
    """Each option with its value, as an empty text where it is a flag."""
    found: dict[str, str] = {}
    for word in words:
        if word.startswith("--"):
            found[word] = ""
        else:
            found[list(found)[-1]] = word
    return found


def asked(settings: Any, load: plan.Load, seed: int = 0) -> dict[str, str]:
    server: Any = SimpleNamespace(url="http://127.0.0.1:8000", model="Qwen/Qwen3-8B", checkpoint=Path("/model"))
    serving: Any = None
    name = settings.dataset.hub_file or "prompts.json"
    client = Client(serving, server, settings, Path(name), Path("/scratch"), Path("/logs"))
    return options(client.arguments(load, seed, Path("/scratch/result.json")))


def test_the_studys_command_to_the_letter(settings: Any, data_dir: Path) -> None:
    document = data_dir.parent / "seeds" / "impact-of-quantization-on-vllm.txt"
    if document.is_file():
        assert STUDY in document.read_text()
    bench = settings("model=qwen3_8b", "bench=study").bench
    load = plan.single(bench)
    ours = asked(bench, load, load.seed(bench, 0))
    theirs = {RENAMED.get(name, name): value for name, value in options(shlex.split(STUDY)[3:]).items()}
    assert {name: ours[name] for name in theirs} == theirs
    added = {name: value for name, value in ours.items() if name not in theirs and name not in ELSEWHERE}
    # An infinite rate and seed 0 are the client's defaults; a greedy reply was that of its release.
    assert added == {"--request-rate": "inf", "--seed": "0", "--temperature": "0.0"}


def test_a_tokenizers_own_code_is_run_where_it_is_trusted(settings: Any) -> None:
    bench, unused = settings("bench=latency").bench, Path("/scratch")
    server: Any = SimpleNamespace(url="http://127.0.0.1:8000", model="model", checkpoint=Path("/model"))
    for trusted in (False, True):
        serving: Any = None
        client = Client(serving, server, bench, None, unused, unused, trusted)
        asked = client.arguments(plan.single(bench), 0, unused / "result.json")
        assert ("--trust-remote-code" in asked) is trusted


@pytest.mark.parametrize("protocol", ["study", "latency", "throughput"])
def test_every_load_is_told_its_seed_and_its_limits(settings: Any, protocol: str) -> None:
    bench = settings(f"bench={protocol}", "bench.max_concurrency=3", "bench.request_rate=2").bench
    told = asked(bench, plan.single(bench), seed=7)
    assert (told["--seed"], told["--max-concurrency"], told["--request-rate"]) == ("7", "3", "2.0")
    assert ("--extra-body" in told) == (bench.output_len is not None)


def test_a_temperature_that_is_left_out_is_the_checkpoints(settings: Any) -> None:
    bench = settings("bench.temperature=null").bench
    assert "--temperature" not in asked(bench, plan.single(bench))


class Serving:
    """In the launcher's place: leaves the result and the log that it is told to."""

    def __init__(self, result: dict[str, Any] | None, log: str = "") -> None:
        self.result, self.log, self.asked = result, log, list[Any]()

    def benchmark(self, server: Any, argv: list[str], log: Path, timeout_s: float) -> None:
        self.asked.append((server, argv, log, timeout_s))
        log.write_text(self.log)
        told = options(argv)
        path = Path(told["--result-dir"], told["--result-filename"])
        assert not path.exists(), "what an earlier load left"
        if self.result is not None:
            path.write_text(json.dumps(self.result))


def answers(*errors: str) -> dict[str, Any]:
    """A result of vLLM's with a request for each error; an answered one has none."""
    number = len(errors)
    return {
        "completed": errors.count(""),
        "input_lens": [5] * number,
        "output_lens": [3] * number,
        "ttfts": [0.1] * number,
        "itls": [[0.1, 0.2]] * number,
        "latencies": [0.4] * number,
        "start_times": [0.0] * number,
        "errors": list(errors),
    }


def client(settings: Any, folder: Path, serving: Serving, pid: int | None = None, checks: int = 0) -> Client:
    """A client of a server that is found dead at a check of its process."""
    left = iter(range(checks))

    def check_alive() -> None:
        if next(left, None) is None:
            raise ServerError("died", "Look.")

    server: Any = SimpleNamespace(
        url="http://127.0.0.1:8000", model="m", checkpoint=folder, pid=pid, log=None, check_alive=check_alive
    )
    bench = settings("bench=throughput", "bench.timeout_s=77").bench
    made: Any = serving
    return Client(made, server, bench, None, folder, folder)


LOAD = plan.Load(name="Rate 2/s", num_prompts=3)


def test_a_load_is_sent_once_and_its_result_is_taken_away(settings: Any, tmp_path: Path) -> None:
    serving = Serving(answers("", ""))
    (tmp_path / "result.json").write_text("of an earlier load")
    run = client(settings, tmp_path, serving).send(LOAD, 7)
    assert run.requests.good.tolist() == [True, True] and run.summary["completed"] == 2
    assert not run.repeats_prompts and not (tmp_path / "result.json").exists()
    ((_, argv, log, timeout_s),) = serving.asked
    assert (log, timeout_s) == (tmp_path / "client-rate-2-s-7.log", 77)
    assert options(argv)["--ready-check-timeout-sec"] == "0", "no first prompt is sent once more"
    assert {"--save-result", "--save-detailed", "--disable-tqdm"} <= set(argv)
    assert options(argv)["--metric-percentiles"] == "50,90,99"
    assert options(argv)["--percentile-metrics"] == "ttft,tpot,itl,e2el"


def test_a_data_set_with_too_few_prompts_is_noticed_in_the_log(settings: Any, tmp_path: Path) -> None:
    serving = Serving(answers(""), log="INFO Oversampled requests to reach 3 total samples.")
    assert client(settings, tmp_path, serving).send(LOAD, 7).repeats_prompts


def test_a_client_that_leaves_nothing_is_a_failure_with_its_log(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"left no result.* Its log is .*client-rate-2-s-7\.log"):
        client(settings, tmp_path, Serving(None)).send(LOAD, 7)


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        (("Traceback\n  ValueError: too long\n", "other"), "None of 3 requests succeeded: ValueError: too long."),
        ((" \n",), "None of 3 requests succeeded: no reason given."),
        (("x" * 500,), f"None of 3 requests succeeded: {'x' * 300}."),
    ],
)
def test_no_answer_at_all_is_a_failure_with_the_first_error(
    settings: Any, tmp_path: Path, errors: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ServerError) as failed:
        client(settings, tmp_path, Serving(answers(*errors))).send(LOAD, 7)
    assert failed.value.problem == said


def test_a_failure_without_a_reason_says_so(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="None of 3 requests succeeded: no reason given"):
        client(settings, tmp_path, Serving(answers("") | {"completed": 0})).send(LOAD, 7)


def test_after_a_failed_request_the_server_is_watched_for_some_seconds(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of ours exits some seconds after its engine; of another one no process is known."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr("pipeline.stages.bench.client.time", clock)
    mixed = Serving(answers("", "closed"))
    assert client(settings, tmp_path, mixed, pid=1, checks=99).send(LOAD, 7).summary["completed"] == 1
    assert 3.5 < now[0] < 6
    with pytest.raises(ServerError, match="died"):
        client(settings, tmp_path, mixed, pid=1, checks=5).send(LOAD, 7)
    assert client(settings, tmp_path, mixed, pid=None).send(LOAD, 7).summary["completed"] == 1
    assert client(settings, tmp_path, Serving(answers("")), pid=1).send(LOAD, 7).summary["completed"] == 1


def test_a_run_is_a_summary_and_arrays_in_a_folder_of_its_own(tmp_path: Path) -> None:
    requests = Requests.of(answers("", ""))
    Run({"completed": 2}, requests).save(tmp_path / "loads" / "rate-inf", "repeat-0")
    assert json.loads((tmp_path / "loads" / "rate-inf" / "repeat-0.json").read_text()) == {"completed": 2}
    assert len(Requests.load(tmp_path / "loads" / "rate-inf" / "repeat-0.npz").start) == 2
