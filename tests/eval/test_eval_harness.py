"""The whole evaluation over tiny tasks and a toy server: what is kept, what is shown, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from completions_server import CompletionsServer

from pipeline.config import EvalSettings, TaskSettings
from pipeline.errors import ConfigError, InputError
from pipeline.eval import tasks
from pipeline.eval.harness import evaluate, file_name, mean_and_error
from pipeline.workspace import Draft

LOADER = """
import json
from pathlib import Path

def load(name, **_):
    from datasets import Dataset, DatasetDict
    rows = Path(__file__).parent.joinpath(name + ".jsonl").read_text().splitlines()
    return DatasetDict({"test": Dataset.from_list([json.loads(row) for row in rows])})

def build(resps, docs):
    return [[doc["code"] for _ in answers] for answers, doc in zip(resps, docs)]
"""
CHOICE = """
task: {name}
custom_dataset: !function tiny.load
dataset_kwargs: {{name: {data}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
WORDS = """
task: tiny_words
custom_dataset: !function tiny.load
dataset_kwargs: {name: words}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: whole, filter: [{function: take_first}]}
  - {name: digit, filter: [{function: regex, regex_pattern: "([0-9])"}, {function: take_first}]}
"""
CODE = """
task: tiny_code
custom_dataset: !function tiny.load
dataset_kwargs: {name: code}
unsafe_code: true
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{test}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list: [{metric: !function metrics.pass_at_k, aggregation: mean, higher_is_better: true, k: [1]}]
filter_list: [{name: program, filter: [{function: custom, filter_fn: !function tiny.build}]}]
"""
# The way lm-eval's own code tasks get at their metric: at import, from the hub's library.
METRICS = """
import evaluate
compute_ = evaluate.load("code_eval")
compute_.compute(references=["assert add(2, 3) == 5"], predictions=[["def add(a, b): return a * b"]], k=[1])

def pass_at_k(references, predictions, k=None):
    return compute_.compute(references=references, predictions=predictions, k=k)[0]
"""
GROUP = """
group: tiny_group
task: [tiny_big, tiny_small]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiny")
    choice = [{"question": f"{'x' * (i % 7)} {i}:", "answer": i % 4, "subject": "ab"[i >= 30]} for i in range(40)]
    plain = [{"question": row["question"], "answer": row["answer"]} for row in choice]
    write(place / "choice.jsonl", choice)
    write(place / "big.jsonl", plain[:30])
    write(place / "small.jsonl", plain[30:])
    write(place / "words.jsonl", [{"question": f"say {i}", "answer": str(i % 10)} for i in range(20)])
    programs = [
        {"question": str(i), "code": f"def f():\n    return {i % 3}", "test": "assert f() == 0"} for i in range(9)
    ]
    write(place / "code.jsonl", programs)
    (place / "tiny.py").write_text(LOADER)
    (place / "metrics.py").write_text(METRICS)
    for name, data in {"tiny_choice": "choice", "tiny_big": "big", "tiny_small": "small", "tiny_gone": "gone"}.items():
        (place / f"{name}.yaml").write_text(CHOICE.format(name=name, data=data))
    (place / "tiny_words.yaml").write_text(WORDS)
    (place / "tiny_code.yaml").write_text(CODE)
    (place / "tiny_group.yaml").write_text(GROUP)
    return place


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)))


Evaluate = Callable[..., Draft]


@pytest.fixture
def run(server: CompletionsServer, checkpoint: Path, folder: Path, tmp_path: Path) -> Evaluate:
    """Evaluates columns on the toy server."""

    def evaluated(is_baseline: bool = False, **changes: Any) -> Draft:
        settings = EvalSettings(**{"name": "tiny", "include_path": folder, "max_gen_toks": 16, **changes})
        said: list[str] = []
        job: Any = SimpleNamespace(
            settings=SimpleNamespace(
                eval=settings, model=SimpleNamespace(trust_remote_code=False), is_baseline=is_baseline
            ),
            checkpoint=checkpoint,
            server=lambda **asked: SimpleNamespace(
                url=server.url, check_alive=lambda: None, facts=lambda: {"toy": True, **asked}
            ),
            progress=SimpleNamespace(detail=said.append),
        )
        place = tmp_path / f"draft{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        draft = Draft(place)
        evaluate(job, draft)
        draft.results["said"] = said
        return draft

    return evaluated


def column(task: str, metric: str = "acc", **more: Any) -> TaskSettings:
    return TaskSettings(task=task, metric=metric, **more)


def rows_of(draft: Draft, label: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (draft.folder / "samples" / f"{label}.jsonl").read_text().splitlines()]


def test_every_sample_is_kept_and_the_figure_is_their_mean(run: Evaluate) -> None:
    draft = run(tasks={"Choice": column("tiny_choice"), "Words": column("tiny_words", "exact_match", filter="digit")})
    figures = draft.results["tasks"]
    rows = rows_of(draft, "Choice")
    assert len(rows) == figures["Choice"]["n"] == figures["Choice"]["asked"] == 40
    assert figures["Choice"]["value"] == pytest.approx(sum(row["score"] for row in rows) / 40)
    report = json.loads((draft.folder / "lm_eval.json").read_text())
    assert report["Choice"]["results"]["tiny_choice"]["acc,none"] == pytest.approx(figures["Choice"]["value"])
    stderr = report["Choice"]["results"]["tiny_choice"]["acc_stderr,none"]
    assert figures["Choice"]["stderr"] == pytest.approx(stderr)
    for row in rows:
        assert row["score"] == float(row["options"][row["target"]] == row["answer"])
        assert row["answer"] == row["options"][row["loglikelihoods"].index(max(row["loglikelihoods"]))]
        assert row["subject"] in ("a", "b")
    assert len({row["doc_hash"] for row in rows}) == len({row["prompt_hash"] for row in rows}) == 40
    words = rows_of(draft, "Words")
    assert figures["Words"]["filters"].keys() == {"whole", "digit"}
    assert figures["Words"]["value"] == figures["Words"]["filters"]["digit"]
    assert all("response" in row and "filtered" in row and row["scores"].keys() == {"whole", "digit"} for row in words)
    assert draft.results["server"] == {"toy": True, "prefix_caching": True}
    assert draft.results["seconds"].keys() == {"Choice", "Words"}
    assert "Choice 40/40" in draft.results["said"]
    assert "Words 20/20" in draft.results["said"]


def test_two_evaluations_agree_to_the_letter(run: Evaluate) -> None:
    asked = {"Choice": column("tiny_choice"), "Words": column("tiny_words", "exact_match", filter="whole")}
    first, second = run(tasks=asked, limit=10), run(tasks=asked, limit=10)
    for label in asked:
        assert rows_of(first, label) == rows_of(second, label)


@pytest.mark.parametrize("is_baseline", [False, True])
def test_the_log_probabilities_of_held_out_text_are_kept(
    run: Evaluate, server: CompletionsServer, tmp_path: Path, is_baseline: bool
) -> None:
    path = tmp_path / "held_out.txt"
    path.write_text("one line\nanother line\nand a third one")
    divergence = {"dataset": {"path": path}, "num_sequences": 3, "max_seq_length": 12, "top_k": 4}
    draft = run(is_baseline, tasks={"Choice": column("tiny_choice")}, limit=4, divergence=divergence)
    facts = draft.results["divergence"]
    assert (facts["sequences"], facts["tokens"], facts["top_k"]) == (3, 7 + 11 + 11, 4)
    assert facts["perplexity"] > 1 and facts["seconds"] > 0
    kept = {facts["file"], facts["file_again"]} - {None}
    assert {path.name for path in draft.folder.glob("*.npz")} == kept and len(kept) == 1 + is_baseline
    assert sum("prompt_logprobs" in request for request in server.requests) == 3 * len(kept)
    assert "divergence 3/3" in draft.results["said"]
    assert "divergence" not in run(tasks={"Choice": column("tiny_choice")}, limit=4).results


def test_a_limit_keeps_the_shares_of_the_subjects(run: Evaluate) -> None:
    draft = run(tasks={"Choice": column("tiny_choice")}, limit=20)
    subjects = [row["subject"] for row in rows_of(draft, "Choice")]
    assert (subjects.count("a"), subjects.count("b")) == (15, 5)
    assert draft.results["tasks"]["Choice"]["available"] == 40
    other = run(tasks={"Choice": column("tiny_choice")}, limit=20, seed=1)
    assert [r["doc_id"] for r in rows_of(other, "Choice")] != [r["doc_id"] for r in rows_of(draft, "Choice")]


def test_a_group_is_the_mean_over_its_items(run: Evaluate) -> None:
    draft = run(tasks={"Group": column("tiny_group"), "Choice": column("tiny_choice")})
    figures = draft.results["tasks"]
    assert figures["Group"]["n"] == 40
    # The same forty questions, in two subtasks of unequal size.
    assert figures["Group"]["value"] == figures["Choice"]["value"]
    assert {row["subject"] for row in rows_of(draft, "Group")} == {"tiny_big", "tiny_small"}
    report = json.loads((draft.folder / "lm_eval.json").read_text())["Group"]
    assert report["groups"]["tiny_group"]["acc,none"] == pytest.approx(figures["Group"]["value"])


def test_a_sample_smaller_than_a_group_leaves_subtasks_out(run: Evaluate) -> None:
    draft = run(tasks={"Group": column("tiny_group")}, limit=1)
    assert draft.results["tasks"]["Group"]["asked"] == len(rows_of(draft, "Group")) == 1


def test_programs_are_scored_in_the_sandbox_without_the_hub(run: Evaluate) -> None:
    draft = run(tasks={"Code": column("tiny_code", "pass@1", filter="program")})
    assert [row["score"] for row in rows_of(draft, "Code")] == [1, 0, 0] * 3
    assert draft.results["tasks"]["Code"]["value"] == pytest.approx(1 / 3)
    assert draft.results["sandbox"] in ("bubblewrap", "namespaces")


def test_lm_evals_own_humaneval_gets_our_metric() -> None:
    from pipeline.eval.scoring import local_metrics

    with local_metrics():
        from lm_eval.tasks.humaneval import utils
    program = "def f():\n    return 1\n"
    assert utils.pass_at_k(["assert f() == 1"], [[program, "def f(): pass"]], k=[1, 2]) == {"pass@1": 0.5, "pass@2": 1}


def test_prompts_that_are_cut_are_counted(run: Evaluate, server: CompletionsServer) -> None:
    server.context = 8
    draft = run(tasks={"Choice": column("tiny_choice")})
    assert draft.results["tasks"]["Choice"]["truncated"] == sum(len(f"{'x' * (i % 7)} {i}:") + 1 > 7 for i in range(40))


REFUSED = {
    "unknown task": ({"task": "tiny_choise"}, ConfigError, r"tiny_choise: lm-eval has no such task.*tiny_choice"),
    "unknown metric": ({"metric": "f2"}, ConfigError, r"f2: tiny_choice has no such metric. It has acc"),
    "unknown filter": ({"filter": "strict"}, ConfigError, r"strict: tiny_choice has no such filter. It has none"),
    "no data": ({"task": "tiny_gone"}, InputError, r"the data of tiny_gone cannot be reached.*gone.jsonl"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_is_refused_before_any_request(
    name: str, run: Evaluate, server: CompletionsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, error, message = REFUSED[name]
    whole = tasks._manager
    # lm-eval's whole library takes many seconds to index; the tiny tasks stand for it.
    monkeypatch.setattr(tasks, "_manager", lambda paths: whole(paths[-1:]))
    with pytest.raises(error, match=message):
        run(tasks={"X": TaskSettings(**{"task": "tiny_choice", "metric": "acc", **changes})})
    assert server.requests == []


def test_a_data_set_of_the_hub_that_is_out_of_reach_says_what_to_do(
    run: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("/nonexistent"))
    with pytest.raises(InputError, match=r"the data of gsm8k cannot be reached") as caught:
        run(tasks={"GSM8K": column("gsm8k", "exact_match", filter="strict-match")})
    assert "HF_HUB_OFFLINE=1" in caught.value.remedy


def test_a_metric_of_the_hub_is_refused(run: Evaluate, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "tasks"
    place.mkdir()
    (place / "tiny.py").write_text(LOADER)
    (place / "choice.jsonl").write_text((folder / "choice.jsonl").read_text())
    text = CHOICE.format(name="tiny_hub", data="choice").replace("metric: acc", "metric: bertscore, hf_evaluate: true")
    (place / "tiny_hub.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bertscore.*fetched from the hub"):
        run(tasks={"X": column("tiny_hub", "bertscore")}, include_path=place)


def test_a_metric_that_is_no_share_is_refused() -> None:
    from pipeline.eval.harness import _score

    asked: Any = SimpleNamespace(label="X", settings=column("t", "f1"))
    with pytest.raises(ConfigError, match="not a score from 0 to 1"):
        _score(asked, (1, 2))


def test_mean_and_error() -> None:
    assert list(mean_and_error([1, 0, 1, 1])) == pytest.approx([0.75, 0.25])
    assert mean_and_error([1]) == (1, None)


def test_labels_become_file_names() -> None:
    assert [file_name(label) for label in ("C-Eval", "GSM8K (5-shot)", "a/b", "..")] == [
        "C-Eval",
        "GSM8K_5-shot_",
        "a_b",
        "_",
    ]
