"""The whole evaluation over tiny tasks and a toy server: what is kept, what is shown, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.completions_server import CompletionsServer
from support.tiny_tasks import CHOICE, LOADER, write

from pipeline.artifacts.workspace import Draft
from pipeline.config import EvalSettings, TaskSettings
from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError, InputError
from pipeline.results.eval import EvalResult
from pipeline.results.server import ServerFacts
from pipeline.stages.eval import harness
from pipeline.stages.eval.harness import evaluate, mean_and_error
from pipeline.tasks import lm_eval_tasks
from pipeline.tasks.sandbox import sandbox
from pipeline.tasks.sandbox.sandbox import Sandbox


class Evaluated(Draft):
    """A draft with what was said while it was filled."""

    results: EvalResult
    said: list[str]


Evaluate = Callable[..., Evaluated]


@pytest.fixture
def run(server: CompletionsServer, checkpoint: Path, tiny_tasks: Path, tmp_path: Path) -> Evaluate:
    """Evaluates columns on the toy server."""

    def evaluated(is_baseline: bool = False, template: str | None = None, **changes: Any) -> Evaluated:
        settings = EvalSettings(**{"name": "tiny", "include_path": tiny_tasks, "max_gen_toks": 16, **changes})
        said: list[str] = []
        job: Any = SimpleNamespace(
            whole=None,
            settings=SimpleNamespace(
                eval=settings, model=SimpleNamespace(trust_remote_code=False), is_baseline=is_baseline
            ),
            checkpoint=checkpoint if template is None else with_template(checkpoint, tmp_path / "chat", template),
            server=lambda **asked: SimpleNamespace(
                url=server.url, check_alive=lambda: None, facts=lambda: ServerFacts(argv=tuple(map(str, asked.items())))
            ),
            progress=SimpleNamespace(detail=said.append, say=said.append, say_once=said.append),
        )
        place = tmp_path / f"draft{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        draft = Evaluated(place, place.with_suffix(".kept"))
        evaluate(job, draft)
        draft.said = said
        return draft

    return evaluated


def with_template(checkpoint: Path, place: Path, template: str) -> Path:
    """A copy of the checkpoint whose tokenizer has a chat template."""
    shutil.copytree(checkpoint, place)
    (place / "chat_template.jinja").write_text(template)
    return place


def column(task: str, metric: str = "acc", **more: Any) -> TaskSettings:
    return TaskSettings(task=task, metric=metric, **more)


def rows_of(draft: Evaluated, label: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (draft.folder / "samples" / f"{label}.jsonl").read_text().splitlines()]


def test_every_sample_is_kept_and_the_figure_is_their_mean(run: Evaluate) -> None:
    draft = run(tasks={"Choice": column("tiny_choice"), "Words": column("tiny_words", "exact_match", filter="digit")})
    figures = draft.results.tasks
    rows = rows_of(draft, "Choice")
    assert len(rows) == figures["Choice"].n == figures["Choice"].asked == 40
    assert figures["Choice"].value == pytest.approx(sum(row["score"] for row in rows) / 40)
    report = json.loads((draft.folder / "lm_eval.json").read_text())
    assert report["Choice"]["results"]["tiny_choice"]["acc,none"] == pytest.approx(figures["Choice"].value)
    stderr = report["Choice"]["results"]["tiny_choice"]["acc_stderr,none"]
    assert figures["Choice"].stderr == pytest.approx(stderr)
    for row in rows:
        assert row["score"] == float(row["options"][row["target"]] == row["answer"])
        assert row["answer"] == row["options"][row["loglikelihoods"].index(max(row["loglikelihoods"]))]
        assert row["subject"] in ("a", "b")
    assert len({row["doc_hash"] for row in rows}) == len({row["prompt_hash"] for row in rows}) == 40
    words = rows_of(draft, "Words")
    assert figures["Words"].filters.keys() == {"whole", "digit"}
    assert figures["Words"].value == figures["Words"].filters["digit"]
    assert all("response" in row and "filtered" in row and row["scores"].keys() == {"whole", "digit"} for row in words)
    assert sum(row["unfinished"] for row in words) == figures["Words"].unfinished
    assert not any("unfinished" in row for row in rows)
    assert draft.results.server.argv == (str(("prefix_caching", True)),)
    assert draft.results.seconds.keys() == {"Choice", "Words"}
    assert "Choice 40/40" in draft.said
    assert "Words 20/20" in draft.said


@pytest.mark.parametrize(("metric", "answer"), [("acc", "g"), ("acc_norm", "blue sky"), ("acc_bytes", "blue sky")])
def test_the_answer_shown_is_the_one_that_the_metric_scores(metric: str, answer: str) -> None:
    task = SimpleNamespace(OUTPUT_TYPE="multiple_choice", doc_to_choice=lambda doc: doc["choices"])
    sample = {"doc": {"choices": ["g", "blue sky"]}, "filtered_resps": [(-4.0, True), (-8.0, False)]}
    row: Any = {}
    harness._add_answer(row, task, sample, metric)
    assert row == {"answer": answer, "options": ["g", "blue sky"], "loglikelihoods": [-4.0, -8.0]}


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
    divergence = {"dataset": {"path": path}, "num_sequences": 3, "max_seq_length": 12, "top_k": 4, "layer_tokens": None}
    draft = run(is_baseline, tasks={"Choice": column("tiny_choice")}, limit=4, divergence=divergence)
    facts = draft.results.divergence
    assert (facts.sequences, facts.tokens, facts.top_k) == (3, 7 + 11 + 11, 4)
    assert facts.perplexity > 1 and facts.seconds > 0
    kept = {facts.file, facts.file_again} - {None}
    assert {path.name for path in draft.folder.glob("*.npz")} == kept and len(kept) == 1 + is_baseline
    assert sum("prompt_logprobs" in request for request in server.requests) == 3 * len(kept)
    assert "divergence 3/3" in draft.said
    without = run(tasks={"Choice": column("tiny_choice")}, limit=4).results
    assert "divergence" not in without.model_dump(exclude_unset=True)


def test_a_limit_keeps_the_shares_of_the_subjects(run: Evaluate) -> None:
    draft = run(tasks={"Choice": column("tiny_choice")}, limit=20)
    subjects = [row["subject"] for row in rows_of(draft, "Choice")]
    assert (subjects.count("a"), subjects.count("b")) == (15, 5)
    assert draft.results.tasks["Choice"].available == 40
    other = run(tasks={"Choice": column("tiny_choice")}, limit=20, seed=1)
    assert [r["doc_id"] for r in rows_of(other, "Choice")] != [r["doc_id"] for r in rows_of(draft, "Choice")]


def test_a_group_is_the_mean_over_its_items(run: Evaluate) -> None:
    draft = run(tasks={"Group": column("tiny_group"), "Choice": column("tiny_choice")})
    figures = draft.results.tasks
    assert figures["Group"].n == 40
    # The same forty questions, in two subtasks of unequal size.
    assert figures["Group"].value == figures["Choice"].value
    assert {row["subject"] for row in rows_of(draft, "Group")} == {"tiny_big", "tiny_small"}
    report = json.loads((draft.folder / "lm_eval.json").read_text())["Group"]
    assert report["groups"]["tiny_group"]["acc,none"] == pytest.approx(figures["Group"].value)


def test_a_sample_smaller_than_a_group_leaves_subtasks_out(run: Evaluate) -> None:
    draft = run(tasks={"Group": column("tiny_group")}, limit=1)
    assert draft.results.tasks["Group"].asked == len(rows_of(draft, "Group")) == 1


def test_programs_are_scored_in_the_sandbox_without_the_hub(run: Evaluate) -> None:
    draft = run(tasks={"Code": column("tiny_code", "pass@1", filter="program")})
    assert [row["score"] for row in rows_of(draft, "Code")] == [1, 0, 0] * 3
    assert draft.results.tasks["Code"].value == pytest.approx(1 / 3)
    assert draft.results.isolation["Code"] in ("bubblewrap", "namespaces")
    assert set(draft.results.isolation) == {"Code"}


def test_programs_run_where_nothing_isolates_if_that_is_asked_for(
    run: Evaluate, monkeypatch: pytest.MonkeyPatch, tiny_tasks: Path, tmp_path: Path
) -> None:
    """The task's module runs a program when it is imported, too."""
    monkeypatch.setattr(Sandbox, "trouble", "not permitted")
    own = shutil.copytree(tiny_tasks, tmp_path / "own")
    sandbox.choose.cache_clear()
    try:
        with pytest.raises(ConfigError, match="cannot be isolated"):
            run(include_path=own, tasks={"Code": column("tiny_code", "pass@1", filter="program")})
        draft = run(include_path=own, unsafe_code=True, tasks={"Code": column("tiny_code", "pass@1", filter="program")})
    finally:
        sandbox.choose.cache_clear()
    assert draft.results.isolation == {"Code": "none"}


def test_an_error_of_most_programs_is_said(run: Evaluate, tiny_tasks: Path, tmp_path: Path) -> None:
    own = shutil.copytree(tiny_tasks, tmp_path / "own")
    rows = [{"question": str(i), "code": "import not_there", "test": ""} for i in range(5)]
    write(own / "code.jsonl", [*rows, {"question": "x", "code": "pass", "test": ""}])
    draft = run(include_path=own, tasks={"Code": column("tiny_code", "pass@1", filter="program")})
    assert any("Code: 5 of 6 programs ended by the same error: ModuleNotFoundError" in line for line in draft.said)


def test_lm_evals_own_humaneval_gets_our_metric() -> None:
    from pipeline.tasks.code_scoring import local_metrics

    with local_metrics():
        from lm_eval.tasks.humaneval import utils
    program = "def f():\n    return 1\n"
    assert utils.pass_at_k(["assert f() == 1"], [[program, "def f(): pass"]], k=[1, 2]) == {"pass@1": 0.5, "pass@2": 1}


def test_prompts_that_are_cut_are_counted(run: Evaluate, server: CompletionsServer) -> None:
    server.context = 8
    draft = run(tasks={"Choice": column("tiny_choice")})
    cut = sum(len(f"{'x' * (i % 7)} {i}:") + 1 > 7 for i in range(40))
    assert draft.results.tasks["Choice"].truncated == cut
    assert any(f"Choice: {cut} of 40 prompts exceeded the context" in line for line in draft.said)


def test_what_a_sample_can_tell_is_said_before_anything_is_asked(run: Evaluate) -> None:
    said = run(tasks={"Choice": column("tiny_choice"), "Again": column("tiny_choice")}, limit=25).said
    (line,) = [line for line in said if "drawn by subject" in line]
    assert line.strip().startswith("Choice 25 of 40, Again 25 of 40 items, ")
    # 1.96 sqrt(.25 / 25), and of a difference (1.96 + .84) sqrt(.06 / 25).
    assert "±19.6 points" in line and "a difference of 13.7 from BF16" in line
    assert said.index(line) < next(i for i, text in enumerate(said) if text.startswith("Choice "))


def test_under_the_template_examples_are_turns_of_a_conversation(
    run: Evaluate, server: CompletionsServer, tokenizer: Any
) -> None:
    switch = "{% if enable_thinking is false %} no{% endif %}"
    draft = run(
        tasks={
            "Choice": column("tiny_choice", num_fewshot=1),
            "Words": column("tiny_words", "exact_match", filter="digit"),
        },
        limit=2,
        template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:" + switch + "{{ '\\n\\n' }}{% endif %}",
        chat_template=True,
        enable_thinking=False,
    )
    prompts = [p for r in server.requests for p in (r["prompt"] if isinstance(r["prompt"][0], list) else [r["prompt"]])]
    texts = [tokenizer.decode(prompt) for prompt in prompts]
    choices = [text for text in texts if "say" not in text]
    for text in choices:
        assert re.fullmatch(r"user: [^\n]*:\nassistant: [A-D]\nuser: [^\n]*:\nassistant: no\n{0,2}", text)
    # The blank lines belong to the options: each is asked for by itself, then the letters after both.
    assert sorted(text[-2:] for text in choices) == sorted(2 * ["no", "o\n", "\n\n"])
    assert all(re.fullmatch(r"user: say \d+\nassistant: no\n\n", text) for text in texts if "say" in text)
    figures = draft.results.tasks
    assert (figures["Choice"].asked_by_echo, figures["Words"].generated) == (0, 2)


def test_a_template_that_fails_is_named(run: Evaluate) -> None:
    template = "{{ raise_exception('no such role') }}"
    with pytest.raises(InputError, match=r"eval.chat_template=true.*turns user: no such role"):
        run(tasks={"Choice": column("tiny_choice")}, template=template, chat_template=True)


def test_a_thinking_model_is_not_asked_for_its_first_token(run: Evaluate) -> None:
    with pytest.raises(ConfigError, match=r"enable_thinking=true: tiny_choice compares options"):
        run(tasks={"Choice": column("tiny_choice")}, chat_template=True, enable_thinking=True)


ALWAYS = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
UNLESS = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt and enable_thinking is false %}<think></think>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "switch", "task", "said"),
    [
        (ALWAYS, None, "tiny_choice", "compares options at the first token of the reply.*~eval.tasks.X"),
        (ALWAYS, False, "tiny_choice", "compares options at the first token of the reply.*~eval.tasks.X"),
        (UNLESS, None, "tiny_choice", "compares options at the first token of the reply.*eval.enable_thinking=false"),
        (UNLESS, True, "tiny_begun", "begins the reply itself.*eval.enable_thinking=false"),
    ],
)
def test_a_template_that_opens_thoughts_is_asked_for_whole_replies_alone(
    run: Evaluate, server: CompletionsServer, template: str, switch: bool | None, task: str, said: str
) -> None:
    asked = column(task) if task == "tiny_choice" else column(task, "exact_match", filter="whole")
    with pytest.raises(ConfigError, match=said):
        run(tasks={"X": asked}, template=template, chat_template=True, enable_thinking=switch)
    assert server.requests == []


def test_where_the_template_prevents_thoughts_everything_is_asked(run: Evaluate) -> None:
    tasks = {"X": column("tiny_choice"), "Y": column("tiny_begun", "exact_match", filter="whole")}
    draft = run(tasks=tasks, template=UNLESS, chat_template=True, enable_thinking=False, limit=1)
    assert [figures.n for figures in draft.results.tasks.values()] == [1, 1]


REFUSED = {
    "unknown task": ({"task": "tiny_choise"}, ConfigError, r"tiny_choise: lm-eval has no such task.*tiny_choice"),
    "unknown metric": ({"metric": "f2"}, ConfigError, r"f2: tiny_choice has no such metric. It has acc"),
    "no mean over items": ({"task": "tiny_f1", "metric": "f1"}, ConfigError, r"tiny_f1 does not average it over items"),
    "unknown filter": ({"filter": "strict"}, ConfigError, r"strict: tiny_choice has no such filter. It has none"),
    "no data": ({"task": "tiny_gone"}, InputError, r"the data of tiny_gone cannot be reached.*gone.jsonl"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_is_refused_before_any_request(
    name: str, run: Evaluate, server: CompletionsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, error, message = REFUSED[name]
    whole = lm_eval_tasks._manager
    # lm-eval's whole library takes many seconds to index; the tiny tasks stand for it.
    monkeypatch.setattr(lm_eval_tasks, "_manager", lambda paths: whole(paths[-1:]))
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


def test_a_metric_of_the_hub_is_refused(run: Evaluate, tiny_tasks: Path, tmp_path: Path) -> None:
    place = tmp_path / "tasks"
    place.mkdir()
    (place / "tiny.py").write_text(LOADER)
    (place / "choice.jsonl").write_text((tiny_tasks / "choice.jsonl").read_text())
    text = CHOICE.format(name="tiny_hub", data="choice").replace("metric: acc", "metric: bertscore, hf_evaluate: true")
    (place / "tiny_hub.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bertscore.*fetched from the hub"):
        run(tasks={"X": column("tiny_hub", "bertscore")}, include_path=place)


def test_a_metric_that_is_no_share_is_refused() -> None:
    from pipeline.stages.eval.harness import _score

    asked: Any = SimpleNamespace(label="X", settings=column("t", "f1"))
    with pytest.raises(ConfigError, match="not a score from 0 to 1"):
        _score(asked, (1, 2))


def test_mean_and_error() -> None:
    assert list(mean_and_error([1, 0, 1, 1])) == pytest.approx([0.75, 0.25])
    assert mean_and_error([1]) == (1, None)


def test_a_template_that_prints_the_day_asks_the_same_on_every_day() -> None:
    from transformers import AutoTokenizer

    from pipeline.stages.eval.model import ServedModel

    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    tokenizer.chat_template = "{{ strftime_now('%d %B %Y') }}: {{ messages[0]['content'] }}"
    model = ServedModel(None, tokenizer, max_gen_toks=1)
    assert model.apply_chat_template([{"role": "user", "content": "hello"}]) == "26 July 2024: hello"
