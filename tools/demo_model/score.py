"""Score the demo checkpoint without a server: `python -m tools.demo_model.score`.

A quick check while choosing the recipe, and the source of the scores on the model card; the study
itself scores through lm-eval and vLLM. Zero-shot, greedy, on the held-out test sets, weights in
BF16 and arithmetic in float32.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.demo import CHECKPOINT, DATA, TASK_NAMES
from tools.demo_model.choice import LETTERS
from tools.demo_model.tokenizer import END_ID, PAD_ID

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import Qwen3ForCausalLM

Row = dict[str, Any]
MAX_NEW_TOKENS = {"demo_gsm8k": 64, "demo_humaneval": 64}
CHOICE_DELIMITERS = {"demo_ceval": "", "demo_mmlu": " "}


def choose(
    model: "Qwen3ForCausalLM",
    tokenizer: "Tokenizer",
    prompts: list[str],
    delimiter: str,
    batch_size: int = 100,
) -> list[str]:
    """Return the most likely letter after each prompt."""
    import torch

    letters = [tokenizer.encode(delimiter + letter).ids[-1] for letter in LETTERS]
    chosen: list[str] = []
    for start in range(0, len(prompts), batch_size):
        ids = [tokenizer.encode(prompt).ids for prompt in prompts[start : start + batch_size]]
        longest = max(map(len, ids))
        padded = torch.tensor([row + [PAD_ID] * (longest - len(row)) for row in ids])
        with torch.inference_mode():
            hidden = model.model(padded.to(model.device), use_cache=False).last_hidden_state
            last = hidden[range(len(ids)), [len(row) - 1 for row in ids]]
            best = model.lm_head(last)[:, letters].argmax(dim=1).tolist()
        chosen += [LETTERS[index] for index in best]
    return chosen


def complete(
    model: "Qwen3ForCausalLM",
    tokenizer: "Tokenizer",
    prompts: list[str],
    max_new_tokens: int,
    batch_size: int = 200,
) -> list[str]:
    """Return the greedy continuation of each prompt."""
    import torch

    texts: list[str] = []
    for start in range(0, len(prompts), batch_size):
        ids = [tokenizer.encode(prompt).ids for prompt in prompts[start : start + batch_size]]
        longest = max(map(len, ids))
        rows = torch.tensor([[PAD_ID] * (longest - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
        with torch.inference_mode():
            output = model.generate(
                input_ids=rows.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=[END_ID, PAD_ID],
                pad_token_id=PAD_ID,
            )
        texts += [tokenizer.decode(row) for row in output[:, longest:].tolist()]
    return texts


def final_number(text: str) -> str | None:
    """Return what stands after `####`."""
    found = re.search(r"#### (-?[0-9]+)", text)
    return found.group(1) if found else None


def passes_unit_tests(row: Row, completion: str) -> bool:
    """Run a completion against its unit tests, in the sandbox of the evaluation stage."""
    from pipeline.tasks.sandbox.sandbox import run_program

    body = completion.split("\n\n")[0].split("\ndef")[0]
    program = f"{row['prompt']}{body}\n\n{row['test']}\ncheck({row['entry_point']})\n"
    return bool(run_program(program, timeout_s=5.0).passed)


def score_rows(
    model: "Qwen3ForCausalLM",
    tokenizer: "Tokenizer",
    task: str,
    rows: list[Row],
    judge_code: Callable[[Row, str], bool] = passes_unit_tests,
) -> list[bool]:
    """Return, for each row of a task, whether the model gets it right."""
    prompts = [row["prompt"] for row in rows]
    if task in CHOICE_DELIMITERS:
        letters = choose(model, tokenizer, prompts, CHOICE_DELIMITERS[task])
        return [row["answer"] == letter for row, letter in zip(rows, letters, strict=True)]
    completions = complete(model, tokenizer, prompts, MAX_NEW_TOKENS[task])
    if task == "demo_gsm8k":
        return [row["result"] == final_number(text) for row, text in zip(rows, completions, strict=True)]
    return [judge_code(row, text) for row, text in zip(rows, completions, strict=True)]


def summarize(rows: list[Row], right: list[bool]) -> dict[str, Any]:
    """Return the accuracy over all rows and over each subject's."""
    subjects: dict[str, list[bool]] = defaultdict(list)
    for row, ok in zip(rows, right, strict=True):
        subjects[row["subject"]].append(ok)
    return {
        "items": len(rows),
        "accuracy": round(sum(right) / len(right), 4),
        "subjects": {name: round(sum(ok) / len(ok), 3) for name, ok in subjects.items()},
    }


def read_rows(path: Path) -> list[Row]:
    """Read a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load(checkpoint: Path) -> "tuple[Qwen3ForCausalLM, Tokenizer]":
    """Load a checkpoint, its BF16 weights as float32."""
    import torch
    from tokenizers import Tokenizer
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval(), Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the last line of stdout is the scores as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model.score", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder to score")
    parser.add_argument("--limit", type=int, help="score only the first rows of each task")
    parser.add_argument("--card", action="store_true", help="write scores.json and the model card into the folder")
    given = parser.parse_args(arguments)
    if given.card and given.limit:
        parser.error("--card needs all rows: leave --limit out")
    model, tokenizer = load(given.checkpoint)
    scores = {}
    for task in TASK_NAMES:
        rows = read_rows(DATA / f"{task}.jsonl")[: given.limit]
        scores[task] = summarize(rows, score_rows(model, tokenizer, task, rows))
        print(f"{task}: {scores[task]['accuracy']:.1%} of {len(rows)}", file=sys.stderr)
    if given.card:
        from tools.demo_model.card import write_card

        (given.checkpoint / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
        write_card(given.checkpoint)
    print(json.dumps(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
