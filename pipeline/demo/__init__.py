"""Embedded default model (`model=demo`): its checkpoint and its tasks.

A Qwen3 of a few million parameters, trained from scratch on generated text, so that the whole study runs on a machine
with no GPU and no model hub. Its four abilities are the small images of C-Eval, MMLU, GSM8K and HumanEval.
`tools/demo_model` made it. Importing this module imports neither torch nor transformers.
"""

from pipeline.config.resources import PACKAGE, RESOURCES

FOLDER = PACKAGE / "demo"

# The committed BF16 checkpoint, a folder that transformers and vLLM load.
CHECKPOINT = FOLDER / "checkpoint"
# lm-eval tasks: one YAML each, for `TaskManager(include_path=...)`.
TASKS = FOLDER / "tasks"
# What the tasks read: `<task>.jsonl`.
DATA = TASKS / "data"
# Conversations in ShareGPT format, disjoint from training and from the tests.
CALIBRATION_DATA = RESOURCES / "calibration_data" / "demo"
CALIBRATION = CALIBRATION_DATA / "calibration.json"
BENCHMARK = CALIBRATION_DATA / "benchmark.json"

TASK_NAMES = ("demo_ceval", "demo_mmlu", "demo_gsm8k", "demo_humaneval")
