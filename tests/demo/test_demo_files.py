"""The committed files: what they promise, and that the generators still make them."""

import json
import os
import re
from pathlib import Path

import pytest

from pipeline.demo import BENCHMARK, CALIBRATION, CHECKPOINT, DATA, TASK_NAMES, TASKS
from tools.demo_model import build
from tools.demo_model.items import split_of
from tools.demo_model.train import sha256_of

SIZES = {"demo_ceval": 600, "demo_mmlu": 600, "demo_gsm8k": 600, "demo_humaneval": 200}


def rows(task: str) -> list[dict[str, str]]:
    text = (DATA / f"{task}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_generators_make_the_committed_files() -> None:
    for path, text in build.outputs().items():
        assert path.read_text(encoding="utf-8") == text, f"run python -m tools.demo_model.build: {path}"


@pytest.mark.parametrize("task", TASK_NAMES)
def test_test_sets_are_whole_and_held_out(task: str) -> None:
    found = rows(task)
    assert len(found) == SIZES[task]
    assert len({row["prompt"] for row in found}) == SIZES[task]
    assert all(split_of(row["key"]) == "test" for row in found)


@pytest.mark.parametrize(("path", "size"), [(CALIBRATION, 512), (BENCHMARK, 256)])
def test_conversations_are_sharegpt_and_share_no_question_with_the_tests(path: Path, size: int) -> None:
    conversations = json.loads(path.read_text(encoding="utf-8"))
    assert len(conversations) == size
    assert len({c["id"] for c in conversations}) == size
    questions = {row.get("question", row["prompt"].strip()) for t in TASK_NAMES for row in rows(t)}
    for conversation in conversations:
        turns = conversation["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert all(turn["value"].strip() for turn in turns)
    prompts = {row["prompt"] for task in TASK_NAMES for row in rows(task)}
    said = "\n".join(t["value"] for c in conversations for t in c["conversations"])
    assert not [prompt for prompt in prompts if prompt.strip() in said]
    assert questions


@pytest.mark.parametrize("task", TASK_NAMES)
def test_tasks_load_in_lm_eval_from_anywhere_without_a_hub(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    loaded = manager.load_task_or_group([task])[task]
    documents = list(loaded.test_docs())
    assert len(documents) == SIZES[task]
    assert loaded.doc_to_text(documents[0]) == documents[0]["prompt"]
    if loaded.OUTPUT_TYPE == "multiple_choice":
        assert list(loaded.doc_to_choice(documents[0])) == list("ABCD")
        assert "ABCD"[int(loaded.doc_to_target(documents[0]))] == documents[0]["answer"]


@pytest.fixture(scope="module")
def provenance() -> dict[str, object]:
    found: dict[str, object] = json.loads((CHECKPOINT / "provenance.json").read_text())
    return found


def test_the_weights_are_those_of_the_provenance(provenance: dict[str, object]) -> None:
    assert sha256_of(CHECKPOINT / "model.safetensors") == provenance["weights_sha256"]
    assert sha256_of(CHECKPOINT / "tokenizer.json") == provenance["tokenizer_sha256"]


def test_the_checkpoint_has_the_promised_shape(provenance: dict[str, object]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 5_000_000 <= count <= 15_000_000
    assert count == provenance["parameters"]
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert linears
    assert all(m.in_features % 256 == 0 and m.out_features % 256 == 0 for m in linears)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 24 * 2**20


def test_the_tokenizer_loads_as_it_was_trained_and_speaks_chatml() -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(CHECKPOINT)
    plain = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    text = "小明有12个苹果。\nQuestion: Tom has $45.\n    return x * x\n<|im_end|>"
    assert loaded(text)["input_ids"] == plain.encode(text).ids
    assert loaded.eos_token == "<|im_end|>" and loaded.pad_token == "<|endoftext|>"
    prompt = loaded.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


def test_the_scores_of_the_card_are_neither_low_nor_saturated() -> None:
    scores = json.loads((CHECKPOINT / "scores.json").read_text())
    assert set(scores) == set(TASK_NAMES)
    for task, score in scores.items():
        assert score["items"] == SIZES[task]
        assert 0.60 <= score["accuracy"] <= 0.95, task


def test_the_card_is_rendered_from_the_files() -> None:
    from tools.demo_model.card import render

    parts = [json.loads((CHECKPOINT / f"{n}.json").read_text()) for n in ("provenance", "scores", "config")]
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    assert card == render(*parts)
    assert not re.search(r"/(home|tmp|work|root)/", card)


def test_the_package_is_light_to_import() -> None:
    import subprocess
    import sys

    code = "import sys, pipeline.demo; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
