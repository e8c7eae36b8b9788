"""Write the data sets of the demo corpus other than training: `python -m tools.demo_model.build`.

The four held-out test sets that the lm-eval tasks read, the calibration conversations and the
conversations of the serving benchmark. All come from the generators of the training corpus, each
from its own split of the keys, so none shares an item with training. The same files come out on
every machine; `--check` only compares.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from pipeline.demo import BENCHMARK, CALIBRATION, DATA
from tools.demo_model.corpus import ABILITIES, Turn, as_turn
from tools.demo_model.functions import unit_tests
from tools.demo_model.items import Item, balanced, stream

SEED = 2026
TEST_SIZES = {"demo_ceval": 600, "demo_mmlu": 600, "demo_gsm8k": 600, "demo_humaneval": 200}
CALIBRATION_SIZE = 512
BENCHMARK_SIZE = 256

Conversation = dict[str, Any]


def test_row(task: str, number: int, item: Item) -> dict[str, Any]:
    """Return an item as a row of its task's data file."""
    row: dict[str, Any] = {
        "id": f"{task}/{number}",
        "subject": item.subject,
        "key": item.key,
        "prompt": item.prompt,
    }
    if task == "demo_humaneval":
        return row | {
            "entry_point": item.fields["entry_point"],
            "canonical_solution": item.answer,
            "test": unit_tests(item),
        }
    return row | item.fields


def test_rows(task: str) -> list[dict[str, Any]]:
    """Return the held-out test set of a task, every subject equally often."""
    rng = random.Random(f"{SEED}/{task}")
    items = balanced(ABILITIES[task], rng, "test", TEST_SIZES[task])
    rng.shuffle(items)
    return [test_row(task, number, item) for number, item in enumerate(items)]


def conversation(name: str, turns: list[Turn]) -> Conversation:
    """Return turns in ShareGPT format."""
    messages = []
    for user, assistant in turns:
        messages += [{"from": "human", "value": user}, {"from": "gpt", "value": assistant}]
    return {"id": name, "conversations": messages}


def calibration() -> list[Conversation]:
    """Return conversations of one or two turns, the four abilities equally often."""
    rng = random.Random(f"{SEED}/calibration")
    streams = [stream(subjects, {}, rng, "calibration") for subjects in ABILITIES.values()]
    made = []
    for number in range(CALIBRATION_SIZE):
        source = streams[number % len(streams)]
        turns = [as_turn(next(source), rng) for _ in range(rng.choice([1, 1, 2]))]
        made.append(conversation(f"calibration-{number}", turns))
    rng.shuffle(made)
    return made


def benchmark() -> list[Conversation]:
    """Return one-turn conversations whose lengths spread as those of real users do.

    A user asks one to six questions at once, and the assistant answers them in order: prompts of
    about 10 to 200 tokens, replies of about 16 to 128.
    """
    rng = random.Random(f"{SEED}/benchmark")
    long_tasks = [stream(ABILITIES[task], {}, rng, "calibration") for task in ("demo_gsm8k", "demo_humaneval")]
    short_tasks = [stream(ABILITIES[task], {}, rng, "calibration") for task in ("demo_ceval", "demo_mmlu")]
    made = []
    for number in range(BENCHMARK_SIZE):
        answers = rng.choices([1, 2, 3, 4], [6, 3, 2, 1])[0]
        extras = rng.choices([0, 1, 2], [5, 3, 1])[0] if answers < 4 else 0
        turns = [as_turn(next(rng.choice(long_tasks)), rng) for _ in range(answers)]
        turns += [as_turn(next(rng.choice(short_tasks)), rng) for _ in range(extras)]
        question, answer = ("\n\n".join(part) for part in zip(*turns, strict=True))
        made.append(conversation(f"benchmark-{number}", [(question, answer)]))
    return made


def outputs() -> dict[Path, str]:
    """Return every file that this module writes, with its contents."""
    files = {}
    for task in TEST_SIZES:
        lines = [json.dumps(row, ensure_ascii=False) for row in test_rows(task)]
        files[DATA / f"{task}.jsonl"] = "\n".join(lines) + "\n"
    for path, made in ((CALIBRATION, calibration()), (BENCHMARK, benchmark())):
        files[path] = json.dumps(made, ensure_ascii=False, indent=1) + "\n"
    return files


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    check = parser.parse_args(arguments).check
    stale = []
    for path, text in outputs().items():
        same = path.exists() and path.read_text(encoding="utf-8") == text
        if not same and check:
            stale.append(path)
        elif not same:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        print(f"{'same' if same else 'differs' if check else 'written'}  {path}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
