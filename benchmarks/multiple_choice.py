r"""Multiple choice by one request per question, compared with lm-eval's own client: questions per second, choices.

    python benchmarks/multiple_choice.py [--column MMLU] [--questions 200] [overrides]

Both query the same server with the same prompts, alternating every hundred questions, so that other load on the machine
affects both. The pipeline's client goes first: lm-eval's `echo` requests cannot use the prefix cache, but would fill
it. Prints a table, every question on which the two choose differently with the gap in log-probability between the two
options, and the same as one JSON line at the end. At the shape of Qwen3-0.6B, with the real tokenizer and MMLU (hours
of `echo` on two cores; `eval.tasks.MMLU.task=mmlu_miscellaneous`, a subject of short prompts, takes less than half):

    mkdir qwen3-0.6b; cp $DATA/qwen3/*.json* qwen3-0.6b/; cp $DATA/qwen3/config.qwen3-0.6b.json qwen3-0.6b/config.json
    python benchmarks/multiple_choice.py model=qwen3_0_6b model.weights=random model.path=qwen3-0.6b \
        eval.data_dir=$DATA eval.tasks.MMLU.num_fewshot=5 serve.max_model_len=4096 eval.num_concurrent=16
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from itertools import chain, groupby
from pathlib import Path
from typing import Any

CLIENTS = ("one request", "lm-eval", "one request, again")
# Questions per client before the other's turn.
TURN = 100
# One of this many questions is used for warm-up: the first batches of a server are slower than all others.
WARM_UP = 9


def settings_of(overrides: list[str]) -> Any:
    """Return the settings of the baseline with these overrides."""
    import hydra

    from pipeline.config import RESOURCES
    from pipeline.config.compose import compose_variants

    with hydra.initialize_config_dir(str(RESOURCES / "conf"), version_base=None):
        config = hydra.compose("config", ["stage=eval", "quant=bf16", *overrides])
        return compose_variants(config, overrides)[0]


def instances_of(settings: Any, column: str, questions: int) -> tuple[list[Any], list[Any]]:
    """Return lm-eval's requests for a sample of a column's questions, drawn by subject, and those for warm-up."""
    from pipeline.tasks import lm_eval_tasks

    chosen = settings.eval.model_copy(update={"limit": questions + -(-questions // (WARM_UP - 1))})
    sample = lm_eval_tasks.load(column, chosen.tasks[column], chosen)
    instances = []
    for name, task in sample.tasks.items():
        with lm_eval_tasks.quiet():
            task.build_all_requests(samples=sample.items[name])
        instances += task.instances
    grouped = questions_of(instances)
    timed = [requests for index, requests in enumerate(grouped) if index % WARM_UP]
    return list(chain(*timed[:questions])), list(chain(*grouped[::WARM_UP]))


def questions_of(instances: list[Any]) -> list[list[Any]]:
    """Group the requests by question."""
    return [list(group) for _, group in groupby(instances, key=lambda each: (each.task_name, each.doc_id))]


def turns(instances: list[Any]) -> list[list[Any]]:
    """Split the requests into turns of `TURN` questions, in order."""
    grouped = questions_of(instances)
    return [list(chain(*grouped[start : start + TURN])) for start in range(0, len(grouped), TURN)]


def choices(instances: list[Any], values: list[tuple[float, bool]]) -> list[tuple[int, list[float]]]:
    """Return the likeliest option of each question, and the log-probabilities of all options."""
    pairs = zip(instances, values, strict=True)
    found = []
    for _, group in groupby(pairs, key=lambda pair: (pair[0].task_name, pair[0].doc_id)):
        logprobs = [value for _, (value, _) in group]
        found.append((logprobs.index(max(logprobs)), logprobs))
    return found


def compare(settings: Any, column: str, questions: int, folder: Path) -> dict[str, Any]:
    """Serve the model, query it with every client, and return the figures."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from transformers import AutoTokenizer

    from pipeline.artifacts.keys import Digests
    from pipeline.hardware.probe import probe
    from pipeline.models.source import ModelSource
    from pipeline.progress import Progress
    from pipeline.serve.server import SERVED_NAME, Serving
    from pipeline.stages.eval.endpoint import Endpoint
    from pipeline.stages.eval.model import ServedModel
    from pipeline.stages.eval.tally import Tally

    os.environ["TQDM_DISABLE"] = "1"
    instances, others = instances_of(settings, column, questions)
    checkpoint = ModelSource(settings.model, folder, Digests(folder / "digests.json")).folder
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    serving = Serving(probe(settings.hardware.device), folder / "logs", Progress())
    try:
        server = serving.serve(checkpoint, settings, "bf16", prefix_caching=True)
        endpoint = Endpoint(server.url, SERVED_NAME, settings.eval.num_concurrent, server.check_alive)
        ours = ServedModel(endpoint, tokenizer, max_gen_toks=16)
        theirs = LocalCompletionsAPI(
            base_url=f"{server.url}/v1/completions",
            model=SERVED_NAME,
            tokenizer=str(checkpoint),
            tokenizer_backend="huggingface",
            num_concurrent=settings.eval.num_concurrent,
            max_length=endpoint.context,
            timeout=3600,
        )
        for client in (ours, theirs):
            client.loglikelihood(others)
        ours.tally = Tally()
        seconds = dict.fromkeys(CLIENTS, 0.0)
        chosen: dict[str, list[Any]] = {name: [] for name in CLIENTS}

        def ask(name: str, client: Any, part: list[Any]) -> None:
            started = time.perf_counter()
            chosen[name] += choices(part, client.loglikelihood(part))
            seconds[name] += time.perf_counter() - started

        for part in turns(instances):
            ask(CLIENTS[0], ours, part)
            ask(CLIENTS[1], theirs, part)
        for part in turns(instances):
            ask(CLIENTS[2], ours, part)
    finally:
        serving.stop()
    return figures(settings, column, instances, ours.tally.facts(), seconds, chosen)


def figures(
    settings: Any, column: str, instances: list[Any], tally: Mapping[str, Any], seconds: dict[str, float], chosen: Any
) -> dict[str, Any]:
    """Return the results as plain data."""
    fast, standard, again = (chosen[name] for name in CLIENTS)
    disagreements = [
        # Difference between the two options according to lm-eval.
        {"question": number, "ours": a, "lm_eval": b, "gap_nats": round(values[b] - values[a], 6)}
        for number, ((a, _), (b, values)) in enumerate(zip(fast, standard, strict=True))
        if a != b
    ]
    gaps = [abs(x - y) for (_, a), (_, b) in zip(fast, standard, strict=True) for x, y in zip(a, b, strict=True)]
    number = len(fast)
    return {
        "model": settings.model.name,
        "task": f"{settings.eval.tasks[column].task}, {settings.eval.tasks[column].num_fewshot or 0}-shot",
        "questions": number,
        "requests": len(instances),
        "asked_by_echo": tally["asked_by_echo"],
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "questions_per_second": {name: round(number / value, 2) for name, value in seconds.items()},
        "speed_ratio": round(seconds["lm-eval"] / seconds["one request"], 2),
        "same_choice": (number - len(disagreements)) / number,
        "disagreements": disagreements,
        "largest_gap_nats": round(max(gaps), 6),
        "same_choice_asked_again": sum(a == b for (a, _), (b, _) in zip(fast, again, strict=True)) / number,
        "load_average": os.getloadavg()[0],
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found['model']}: {found['task']}, {found['questions']} questions")
    for head in ("client", "seconds", "questions/s"):
        table.add_column(head, justify="left" if head == "client" else "right")
    for name in CLIENTS:
        table.add_row(name, f"{found['seconds'][name]:.1f}", f"{found['questions_per_second'][name]:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"{found['speed_ratio']:.1f} times the questions per second; the same choice on {found['same_choice']:.2%}, "
        f"on {found['same_choice_asked_again']:.2%} when asked again; log-probabilities differ by at most "
        f"{found['largest_gap_nats']:.6f} nats; load average {found['load_average']:.1f}"
    )
    for each in found["disagreements"]:
        console.print(
            f"question {each['question']}: {'ABCDEFGH'[each['ours']]} instead of {'ABCDEFGH'[each['lm_eval']]}, "
            f"which lm-eval finds likelier by {each['gap_nats']:.6f} nats"
        )


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--column", default="MMLU", help="label of the task among eval.tasks")
    parser.add_argument("--questions", type=int, default=200)
    options, overrides = parser.parse_known_args()
    settings = settings_of(overrides)
    with tempfile.TemporaryDirectory() as folder:
        found = compare(settings, options.column, options.questions, Path(folder))
    show(found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
