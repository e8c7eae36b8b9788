"""Tiny tasks of every kind as lm-eval reads them, with their data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def make(place: Path) -> Path:
    """Fills a folder with the tasks; returns it."""
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
    (place / "tiny_f1.yaml").write_text(
        CHOICE.format(name="tiny_f1", data="choice").replace("acc, aggregation: mean", "f1, aggregation: f1")
    )
    (place / "tiny_words.yaml").write_text(WORDS)
    (place / "tiny_begun.yaml").write_text(f'{WORDS.replace("tiny_words", "tiny_begun")}gen_prefix: "It is"\n')
    (place / "tiny_code.yaml").write_text(CODE)
    (place / "tiny_group.yaml").write_text(GROUP)
    return place


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)))
