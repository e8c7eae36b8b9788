"""The four benchmarks from files: the prompts are lm-eval's own over the hub's data; bad files are named."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import EvalSettings, TaskSettings
from pipeline.errors import InputError
from pipeline.tasks import lm_eval_tasks, local_files
from pipeline.tasks.code_scoring import local_metrics

COLUMNS = {
    "C-Eval": TaskSettings(task="ceval-valid", metric="acc", num_fewshot=5),
    "MMLU": TaskSettings(task="mmlu", metric="acc", num_fewshot=4),
    "GSM8K": TaskSettings(task="gsm8k", metric="exact_match", filter="flexible-extract", num_fewshot=5),
    "HumanEval": TaskSettings(task="humaneval", metric="pass@1", filter="create_test", num_fewshot=0),
}
SIZES = {"C-Eval": 1346, "MMLU": 14042, "GSM8K": 1319, "HumanEval": 164}
# One subject of the two that have many: a fast test of the same thing.
ONE = {"C-Eval": "ceval-valid_accountant", "MMLU": "mmlu_anatomy"}
HUB = {
    "C-Eval": "ceval/ceval-exam",
    "MMLU": "cais/mmlu",
    "GSM8K": "openai/gsm8k",
    "HumanEval": "openai/openai_humaneval",
}


def frames(data_dir: Path) -> Iterator[tuple[str, str, str, Any]]:
    """Every part of the hub's data sets as (data set, configuration, split, frame), read by pandas and not by us."""
    import pandas

    for path in sorted(data_dir.glob("mmlu/*/*_*.csv")):
        split = path.parent.name
        if split in ("dev", "test"):
            texts = ["question", "A", "B", "C", "D", "answer"]
            read = pandas.read_csv(path, header=None, names=texts, dtype=str, keep_default_na=False)
            subject = path.stem.removesuffix(f"_{split}")
            frame = pandas.DataFrame({"question": read["question"], "subject": subject})
            frame["choices"] = read[list("ABCD")].values.tolist()
            frame["answer"] = ["ABCD".index(letter) for letter in read["answer"]]
            yield "cais/mmlu", subject, split, frame
    for path in sorted(data_dir.glob("ceval/*/*_*.csv")):
        split = path.parent.name
        frame = pandas.read_csv(path, dtype=str, keep_default_na=False)
        frame["id"] = frame["id"].astype("int32")
        if "explanation" not in frame:
            frame["explanation"] = ""
        yield "ceval/ceval-exam", path.stem.removesuffix(f"_{split}"), split, frame
    for split in ("train", "test"):
        frame = pandas.read_json(data_dir / f"gsm8k/{split}.jsonl", lines=True, dtype=False)
        yield "openai/gsm8k", "main", split, frame
    frame = pandas.read_json(data_dir / "humaneval/HumanEval.jsonl", lines=True, dtype=False)
    order = ["task_id", "prompt", "canonical_solution", "test", "entry_point"]
    yield "openai/openai_humaneval", "openai_humaneval", "test", frame[order]


@pytest.fixture(scope="session")
def hub(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with the hub's names and layout, which `datasets` loads as it loads the hub."""
    root = tmp_path_factory.mktemp("hub")
    configs: dict[str, dict[str, list[str]]] = {}
    for name, config, split, frame in frames(data_dir):
        file = root / name / config / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(file, index=False)
        configs.setdefault(name, {}).setdefault(config, []).append(split)
    for name, parts in configs.items():
        head = ["---", "configs:"]
        for config, splits in parts.items():
            head += [f"- config_name: {config}", "  data_files:"]
            head += [f"  - split: {split}\n    path: {config}/{split}-*" for split in splits]
        (root / name / "README.md").write_text("\n".join([*head, "---", ""]))
    return root


def prompts(label: str, task: str, data_dir: Path | None) -> dict[tuple[str, int], tuple[Any, ...]]:
    """What is asked of every item, with its target and its identity, through the whole of our loading."""
    wanted = COLUMNS[label].model_copy(update={"task": task})
    settings = EvalSettings(name="x", tasks={label: wanted}, data_dir=data_dir, seed=1234)
    asked = lm_eval_tasks.load(label, wanted, settings)
    found = {}
    for name, loaded in asked.tasks.items():
        with lm_eval_tasks.quiet():
            loaded.build_all_requests(samples=asked.items[name])
        for instance in loaded.instances:
            target = loaded.doc_to_target(instance.doc)
            document = json.dumps(instance.doc, ensure_ascii=False)
            found.setdefault((name, instance.doc_id), []).append((instance.args, target, document))
    return {item: tuple(asked) for item, asked in found.items()}


def compare(label: str, task: str, data_dir: Path, hub: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Holds our files' prompts against lm-eval's own over its own loading; the number of items."""
    import datasets

    ours = prompts(label, task, data_dir)
    monkeypatch.chdir(hub)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    theirs = prompts(label, task, None)
    assert ours.keys() == theirs.keys()
    for item, asked in ours.items():
        assert asked == theirs[item]
    return len(ours)


@pytest.mark.parametrize("label", COLUMNS)
def test_the_prompts_are_those_of_the_hubs_data(
    label: str, data_dir: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ONE.get(label, COLUMNS[label].task)
    assert compare(label, task, data_dir, hub, tmp_path, monkeypatch) > 40


@pytest.mark.slow
@pytest.mark.parametrize("label", COLUMNS)
def test_every_prompt_is_that_of_the_hubs_data(
    label: str, data_dir: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare(label, COLUMNS[label].task, data_dir, hub, tmp_path, monkeypatch) == SIZES[label]


def test_a_prompt_is_as_the_benchmarks_authors_write_it(data_dir: Path) -> None:
    asked = prompts("MMLU", "mmlu_anatomy", data_dir)
    ((context, option), target, _), *_ = asked["mmlu_anatomy", 0]
    assert context.startswith(
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        "What is the embryological origin of the hyoid bone?\nA. The first pharyngeal arch\n"
    )
    assert context.count("\nAnswer: ") == 4
    with (data_dir / "mmlu/test/anatomy_test.csv").open(newline="") as file:
        question, *options, letter = next(csv.reader(file))
    listed = "".join(f"\n{name}. {text}" for name, text in zip("ABCD", options, strict=True))
    assert context.endswith(f"\n\n{question.strip()}{listed}\nAnswer:")
    assert (option, "ABCD"[target]) == (" A", letter)


def folder_with(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return tmp_path


CEVAL = "id,question,A,B,C,D,answer\n"
BAD = {
    "no file": ("ceval/dev/law_dev.csv", CEVAL + "0,q,1,2,3,4,A\n", "C-Eval", r"ceval/val/law_val.csv does not exist"),
    "empty": ("ceval/val/law_val.csv", "", "C-Eval", r"law_val.csv has no items"),
    "a header alone": ("ceval/val/law_val.csv", CEVAL, "C-Eval", r"law_val.csv has no items"),
    "labels that are not public": ("ceval/val/law_val.csv", CEVAL + "0,q,1,2,3,4,\n", "C-Eval", r"row 2.*answer ''"),
    "no column of answers": (
        "ceval/val/law_val.csv",
        "id,question,A,B,C,D\n0,q,1,2,3,4\n",
        "C-Eval",
        r"no column answer",
    ),
    "five columns": ("mmlu/test/anatomy_test.csv", "q,1,2,3,A\n", "MMLU", r"row 1.*5 columns instead of 6"),
    "a number for a letter": ("mmlu/test/anatomy_test.csv", "q,1,2,3,4,0\n", "MMLU", r"row 1.*answer '0'"),
    "no JSON": ("gsm8k/train.jsonl", "{\n", "GSM8K", r"row 1 of .*train.jsonl has not JSON"),
    "no solution": ("gsm8k/train.jsonl", '{"question": "q", "answer": "4"}\n', "GSM8K", r"row 1.*answer '4'"),
    "no tests": ("humaneval/HumanEval.jsonl", '{"task_id": "0", "prompt": "p"}\n', "HumanEval", r"no text under.*test"),
}
TASKS = {"C-Eval": "ceval-valid_law", "MMLU": "mmlu_anatomy", "GSM8K": "gsm8k", "HumanEval": "humaneval"}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_used_is_named_with_its_row(case: str, tmp_path: Path) -> None:
    name, text, label, message = BAD[case]
    with pytest.raises(InputError, match=message):
        prompts(label, TASKS[label], folder_with(tmp_path, name, text))


def test_a_folder_holds_the_four_benchmarks_and_no_other(tmp_path: Path) -> None:
    settings = EvalSettings(name="x", tasks={"X": {"task": "sciq", "metric": "acc"}}, data_dir=tmp_path)
    with pytest.raises(InputError, match=r"cannot hold .*sciq"):
        lm_eval_tasks.load("X", settings.tasks["X"], settings)


def test_its_content_is_its_identity(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "gsm8k/test.jsonl", '{"question": "q", "answer": "#### 4"}\n')
    before = local_files.identity(folder)
    (folder / "notes.txt").write_text("not read by any task")
    assert local_files.identity(folder) == before and local_files.identity(None) is None
    (folder / "gsm8k" / "test.jsonl").write_text('{"question": "r", "answer": "#### 4"}\n')
    assert local_files.identity(folder) != before


def test_within_the_block_alone_the_hub_is_replaced(tmp_path: Path) -> None:
    import datasets

    hub = datasets.load_dataset
    with local_files.from_folder(tmp_path), local_metrics():
        assert datasets.load_dataset is not hub
    assert datasets.load_dataset is hub


def test_under_qwen3s_template_a_question_is_still_asked_for_single_tokens(data_dir: Path) -> None:
    from transformers import AutoTokenizer

    from pipeline.stages.eval.endpoint import Endpoint
    from pipeline.stages.eval.model import ServedModel
    from pipeline.stages.eval.options import is_choice

    tokenizer = AutoTokenizer.from_pretrained(data_dir / "qwen3")
    nowhere = Endpoint("http://127.0.0.1:9", "model", 1, lambda: None)
    model = ServedModel(nowhere, tokenizer, max_gen_toks=16, enable_thinking=False)
    settings = EvalSettings(name="x", tasks=COLUMNS, data_dir=data_dir, chat_template=True)
    wanted = COLUMNS["MMLU"].model_copy(update={"task": "mmlu_anatomy"})
    (task,) = lm_eval_tasks.load("MMLU", wanted, settings).tasks.values()
    with lm_eval_tasks.quiet():
        task.build_all_requests(
            samples=[0], apply_chat_template=True, fewshot_as_multiturn=True, chat_template=model.apply_chat_template
        )
    context, option = task.instances[0].args
    assert context.startswith("<|im_start|>system\nThe following are multiple choice questions")
    assert context.count("<|im_start|>user\n") == 5 and context.count("<|im_start|>assistant\n") == 5
    assert context.endswith("\nAnswer:<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n") and option == "A"
    options = list(model._options(task.instances))
    assert is_choice(options)
    # The blank line is a token of its own, then come the letters.
    assert [tokenizer.decode(each.continuation) for each in options] == ["\n\nA", "\n\nB", "\n\nC", "\n\nD"]


def test_an_item_has_the_same_prompt_in_a_sample_of_any_size(data_dir: Path) -> None:
    def prompts(label: str, **sample: Any) -> dict[str, str]:
        settings = EvalSettings(name="x", tasks=COLUMNS, data_dir=data_dir, **sample)
        wanted = COLUMNS[label].model_copy(update={"task": ONE.get(label, COLUMNS[label].task)})
        asked = lm_eval_tasks.load(label, wanted, settings)
        ((name, task),) = asked.tasks.items()
        with lm_eval_tasks.quiet():
            task.build_all_requests(samples=asked.items[name])
        return {str(each.doc): each.args[0] for each in task.instances}

    for label in ("GSM8K", "C-Eval"):
        everything = prompts(label)
        for sample in ({"limit": 20}, {"share": 0.1}, {"share": 0.3, "limit": 40}):
            some = prompts(label, **sample)
            assert 0 < len(some) < len(everything)
            assert some.items() <= everything.items()
