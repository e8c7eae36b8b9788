"""An evaluation that was killed goes on where it stopped: what was answered is not asked again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.completions_server import CompletionsServer
from support.evaluate_toy import evaluate_toy

from pipeline.config import EvalSettings
from pipeline.stages.eval.journal import Journal

TASKS = {
    "Choice": {"task": "tiny_choice", "metric": "acc"},
    "Words": {"task": "tiny_words", "metric": "exact_match", "filter": "digit"},
}
CONCURRENT = 2


class Killer(CompletionsServer):
    """Kills who asks when it has answered a number of requests."""

    victim: subprocess.Popen[bytes] | None = None
    kill_after = 10**9

    def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.victim is not None and len(self.requests) > self.kill_after:
            os.kill(self.victim.pid, signal.SIGKILL)
        return super().complete(body)


def toy(tiny_tasks: Path, tmp_path: Path) -> dict[str, Any]:
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("one line\nanother line\nand a third one")
    text = {"num_sequences": 3, "max_seq_length": 12, "top_k": 4, "layer_tokens": None}
    return {
        "name": "toy",
        "include_path": str(tiny_tasks),
        "tasks": TASKS,
        "num_concurrent": CONCURRENT,
        "divergence": {"dataset": {"path": str(held_out)}, **text},
    }


@pytest.mark.parametrize("is_baseline", [pytest.param(False, marks=pytest.mark.slow), True])
def test_after_kill_9_only_the_rest_is_asked(
    is_baseline: bool, tokenizer: Any, checkpoint: Path, tiny_tasks: Path, tmp_path: Path
) -> None:
    # The resumed run asks a server of its own: the killed one's last request may reach the first after the kill.
    server, fresh = (Killer(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))) for _ in range(2))
    asked = toy(tiny_tasks, tmp_path)

    def options(outputs: str, url: str) -> dict[str, Any]:
        places = {"url": url, "checkpoint": str(checkpoint), "outputs": str(tmp_path / outputs)}
        return {"eval": asked, "is_baseline": is_baseline, **places}

    try:
        whole = evaluate_toy(options("whole", server.url))
        total = len(server.requests)
        # 40 questions go two in a request; what is generated, and held-out text, is asked twice of the baseline.
        assert total == 20 + (20 + 3) * (1 + is_baseline)
        server.requests.clear()
        server.kill_after = 25
        script = Path(__file__).parents[2] / "support" / "evaluate_toy.py"
        server.victim = subprocess.Popen([sys.executable, str(script), json.dumps(options("killed", server.url))])
        server.victim.wait(timeout=300)
        assert server.victim.returncode == -signal.SIGKILL
        server.victim = None
        resumed = evaluate_toy(options("killed", fresh.url))
    finally:
        server.close()
        fresh.close()
    # What was in flight when the kill came was asked and not heard.
    before, after = len(server.requests), len(fresh.requests)
    assert total - before <= after <= total - before + CONCURRENT
    for name in ("samples/Choice.jsonl", "samples/Words.jsonl"):
        assert (resumed / name).read_text() == (whole / name).read_text()
    ours, theirs = (json.loads((folder / "manifest.json").read_text())["results"] for folder in (resumed, whole))
    assert ours["tasks"] == theirs["tasks"]
    assert ours["divergence"]["perplexity"] == theirs["divergence"]["perplexity"]
    # Prompts are recalled: of the 20 requests with two questions each, all were answered before the kill.
    assert (theirs["recalled"], ours["recalled"]) == (0, total - after + 20)
    assert not [path for path in resumed.parent.iterdir() if path.suffix == ".kept"]


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "answers.jsonl"
    journal = Journal(path)
    keys = [journal.recall({"prompt": [i]})[0] for i in range(3)]
    for i, key in enumerate(keys):
        journal.append(key, [f"answer {i}", None])
    journal.close()
    path.write_bytes(path.read_bytes()[:-5])
    again = Journal(path)
    assert [again.recall({"prompt": [i]})[1] for i in range(3)] == [["answer 0", None], ["answer 1", None], None]
    again.append(keys[2], ["answer 2", None])
    again.close()
    assert Journal(path).recall({"prompt": [2]})[1] == ["answer 2", None]


def test_what_was_asked_twice_is_answered_twice_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    journal = Journal(path)
    key, _ = journal.recall({"prompt": [1]})
    journal.append(key, "first")
    journal.append(key, "second")
    journal.close()
    again = Journal(path)
    assert [again.recall({"prompt": [1]})[1] for _ in range(3)] == ["first", "second", None]
    assert again.recalled == 2


def test_the_parts_of_an_evaluation_ask_each_question_once(
    tokenizer: Any, checkpoint: Path, tiny_tasks: Path, tmp_path: Path
) -> None:
    server = CompletionsServer(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)))
    whole = EvalSettings.model_validate(toy(tiny_tasks, tmp_path))

    def evaluate(outputs: str, settings: EvalSettings) -> tuple[Path, int]:
        server.requests.clear()
        places = {"url": server.url, "checkpoint": str(checkpoint), "outputs": str(tmp_path / outputs)}
        found = evaluate_toy({"eval": settings.model_dump(mode="json"), "is_baseline": True, **places})
        return found, len(server.requests)

    try:
        at_once, total = evaluate("at once", whole)
        _, screened = evaluate("parts", whole.screen)
        some, first = evaluate("parts", whole.of_share(0.3))
        last, rest = evaluate("parts", whole)
    finally:
        server.close()
    # Which answers are asked for again follows from the items of a part: 6 of 20 in the first.
    assert min(screened, first, rest) > 0 and total <= screened + first + rest <= total + 6
    for name in ("samples/Choice.jsonl", "samples/Words.jsonl"):
        everything = (at_once / name).read_text()
        assert (last / name).read_text() == everything
        part = (some / name).read_text().splitlines()
        assert 0 < len(part) < len(everything.splitlines()) and set(part) <= set(everything.splitlines())
    results = json.loads((some / "manifest.json").read_text())["results"]
    assert results["sizes"] == {"Choice": 40, "Words": 20} and results["tasks"]["Words"]["n"] == 6
