"""The evaluation of one served checkpoint: every task of the settings, every sample kept, and its log-probabilities.

lm-eval defines the prompts, filters and scores; the checkpoint is queried over HTTP; programs that it writes run in the
sandbox. The figures are means over items, so each can be recomputed from the samples stored with it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from rich.markup import escape

from pipeline.config import Stage
from pipeline.config.file_names import file_name
from pipeline.errors import ConfigError
from pipeline.models.tokenizer import load_tokenizer
from pipeline.results.base import Missing
from pipeline.results.eval import EvalResult, LayerErrors, TaskResult
from pipeline.results.text import by_reason
from pipeline.tasks import lm_eval_tasks
from pipeline.tasks.chat_templates import ChatTemplate, switched
from pipeline.tasks.code_scoring import local_metrics, shared_error
from pipeline.tasks.sandbox import sandbox

if TYPE_CHECKING:
    from pipeline.artifacts.workspace import Draft
    from pipeline.config import EvalSettings
    from pipeline.job import Job
    from pipeline.stages.eval.divergence import Text
    from pipeline.stages.eval.endpoint import Endpoint
    from pipeline.stages.eval.model import ServedModel
    from pipeline.stages.eval.tally import TallyFields
    from pipeline.tasks.lm_eval_tasks import TaskSample

# A sample as lm-eval logs it: fixed fields, and one for each metric of the task.
Sample = Mapping[str, Any]


class SampleRow(TypedDict):
    """Stored item: its score under each filter, and the model's answer."""

    task: str
    doc_id: int
    doc_hash: str
    prompt_hash: str
    score: float
    scores: dict[str, float]
    target: object
    # Multiple choice only.
    answer: NotRequired[str]
    options: NotRequired[list[str]]
    loglikelihoods: NotRequired[list[float]]
    # Generation only.
    filtered: NotRequired[object]
    response: NotRequired[object]
    # The answer reached the token limit.
    unfinished: NotRequired[bool]
    subject: NotRequired[str]


# Share of items that only one of two checkpoints answers correctly; typical of 4-bit weights of 8B models.
USUALLY_DIFFERING = 0.06
# Metrics that divide the log-likelihood of an option by its length, as lm-eval counts it.
LENGTHS: dict[str, Callable[[str], int]] = {"acc_norm": len, "acc_bytes": lambda option: len(option.encode())}
# Number of the baseline's greedy prompts that are repeated: other batches may round sums differently.
ASKED_AGAIN = 50


def evaluate(job: Job, draft: Draft) -> None:
    """Evaluate the job's checkpoint and fill the draft.

    Raises:
        ConfigError: on an unknown task, metric or filter, or programs that cannot be isolated here.
        InputError: when a task's data or the tokenizer cannot be read.
        ServerError: when the server exits or does not answer.
    """
    settings = job.settings.eval
    # Some tasks run a program when they are loaded.
    with sandbox.policy(unsafe=settings.unsafe_code, timeout_s=settings.code_timeout_s):
        _evaluate(job, draft, settings)


def _evaluate(job: Job, draft: Draft, settings: EvalSettings) -> None:
    from pipeline.serve.server import SERVED_NAME
    from pipeline.stages.eval import divergence, journal
    from pipeline.stages.eval.endpoint import Endpoint

    columns = []
    for label, wanted in settings.tasks.items():
        job.progress.detail(f"reading {label}")
        columns.append(lm_eval_tasks.load(label, wanted, settings))
    drawn = (
        (f"{label} {asked.count} of {asked.available}", implied(asked.count))
        for label, asked in zip(settings.tasks, columns, strict=True)
        if 0 < asked.count < asked.available
    )
    for precision, tasks in by_reason(drawn).items():
        job.progress.say_once(escape(f"  {', '.join(tasks)} items, {precision}"))
    isolation = _isolation(columns, settings)
    tokenizer = load_tokenizer(job.checkpoint, trust_remote_code=job.settings.model.trust_remote_code)
    thinks = settings.chat_template and ChatTemplate(tokenizer, switched(settings.enable_thinking)).thinks
    if thinks:
        _check_replies(columns, tokenizer)
    held_out = settings.divergence
    texts = divergence.read_texts(held_out, tokenizer) if held_out else []
    by_layer = _by_layer(job, texts, draft.folder)
    server = job.server(prefix_caching=settings.prefix_caching)
    # The parts of an evaluation share its answers: a further part asks only what the earlier ones did not.
    kept = job.workspace.kept(job.whole.artifact(Stage.EVAL)) if job.whole else draft.kept
    answers = journal.Journal(kept / journal.FILE)
    endpoint = Endpoint(server.url, SERVED_NAME, settings.num_concurrent, server.check_alive, answers)
    figures: dict[str, TaskResult] = {}
    reports: dict[str, object] = {}
    seconds: dict[str, float] = {}
    for asked in (column for column in columns if column.count):
        started = time.monotonic()
        figures[asked.label], reports[asked.label] = _evaluate_column(
            job, asked, endpoint, tokenizer, draft.folder, thinks=thinks
        )
        seconds[asked.label] = round(time.monotonic() - started, 3)
        for sentence in remarks(asked.label, figures[asked.label]):
            job.progress.say(f"  [yellow]{escape(sentence)}[/]")
    diverged = None
    if held_out:
        shown = _progress(job.progress.detail, "divergence", len(texts))
        diverged = divergence.measure(
            texts, held_out.top_k, endpoint, draft.folder, shown, twice=job.settings.is_baseline
        )
    answers.close()
    _write_json(draft.folder / "lm_eval.json", reports)
    result = EvalResult(
        tasks=figures,
        sizes={asked.label: asked.whole for asked in columns},
        server=server.facts(),
        seconds=seconds,
        recalled=answers.recalled,
        isolation=isolation,
    )
    measured = {"divergence": diverged, "layers": by_layer}
    draft.results = result.model_copy(update={name: each for name, each in measured.items() if each is not None})


def _isolation(columns: Sequence[TaskSample], settings: EvalSettings) -> dict[str, str]:
    """Return what isolates the programs of each column that has any.

    Raises:
        ConfigError: if this machine can isolate none.
    """
    return {
        asked.label: sandbox.choose(unsafe=settings.unsafe_code).kind if asked.executes == "sandbox" else "none"
        for asked in columns
        if asked.executes != "nowhere"
    }


def _check_replies(columns: Sequence[TaskSample], tokenizer: Any) -> None:
    """Refuse tasks that would ask a thinking model for a reply before it has begun to think.

    Raises:
        ConfigError: naming the task.
    """
    for asked in columns:
        for name, task in asked.tasks.items():
            is_text = task.OUTPUT_TYPE == "generate_until"
            if is_text and not task.get_config("gen_prefix"):
                continue
            why = "begins the reply itself" if is_text else "compares options at the first token of the reply"
            can_be_off = not ChatTemplate(tokenizer, switched(False)).thinks
            raise ConfigError(
                f"eval.tasks.{asked.label}: under its chat template the model thinks before it replies, and {name} "
                f"{why}.",
                "Set eval.enable_thinking=false."
                if can_be_off
                else f"Leave it out (~eval.tasks.{asked.label}), or set eval.chat_template=false.",
            )


def _evaluate_column(
    job: Job, asked: TaskSample, endpoint: Endpoint, tokenizer: Any, folder: Path, *, thinks: bool = False
) -> tuple[TaskResult, Mapping[str, object]]:
    """Evaluate one column and write its samples; return its figure and lm-eval's aggregated results."""
    from pipeline.stages.eval.model import ServedModel

    settings = job.settings.eval
    model = ServedModel(
        endpoint,
        tokenizer,
        max_gen_toks=settings.max_gen_toks,
        max_reply_toks=settings.max_reply_toks,
        seed=settings.seed,
        enable_thinking=settings.enable_thinking,
        thinks=thinks,
        ask_again=ASKED_AGAIN if job.settings.is_baseline else 0,
        progress=_progress(job.progress.detail, asked.label, asked.count),
    )
    with sandbox.recorded() as outcomes:
        report, rows = ask(asked, model, chat_template=settings.chat_template)
    if shared := shared_error(outcomes):
        error, count = shared
        job.progress.say(
            f"  [yellow]{escape(asked.label)}: {count} of {len(outcomes)} programs ended by the same error: "
            f"{escape(error)}[/]"
        )
    _write_rows(folder / "samples" / f"{file_name(asked.label)}.jsonl", rows)
    return summarize(asked, rows, model.tally.facts()), report


def _by_layer(job: Job, texts: Sequence[Text], folder: Path) -> LayerErrors | Missing | None:
    """Measure each quantized layer's output error, before the server takes the memory; None if not requested."""
    held_out = job.settings.eval.divergence
    if held_out is None or held_out.layer_tokens is None or job.settings.is_baseline:
        return None
    from pipeline.stages.eval import layers

    if job.hardware.device == "cuda":
        job.serving.stop()
    found = layers.measure(job, texts, held_out.layer_tokens, folder)
    if not isinstance(found, Missing):
        worst = found.worst[0]
        said = (
            f"  of {found.modules} quantized layers, {worst.module} has the largest output error: "
            f"{worst.snr_db:.1f} dB (median {found.median_db:.1f} dB)"
        )
        job.progress.say(escape(said))
    return found


def ask(
    asked: TaskSample, model: ServedModel, *, chat_template: bool = False
) -> tuple[Mapping[str, object], list[SampleRow]]:
    """Run lm-eval over one column; return its aggregated results, and one row per item."""
    from lm_eval.evaluator import evaluate as lm_eval_evaluate

    # lm-eval averages over a group only where all of its tasks are there.
    whole = len(asked.items) == len(asked.subjects)
    with lm_eval_tasks.quiet(), lm_eval_tasks.templates_compiled_once(), local_metrics():
        report = lm_eval_evaluate(
            model,
            {"tasks": asked.tasks, "groups": asked.groups if whole else {}},
            samples=asked.items,
            bootstrap_iters=100,
            log_samples=True,
            confirm_run_unsafe_code=True,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )
    samples = report.pop("samples")
    rows = [row for name in asked.tasks for row in _rows(asked, name, samples[name], model.tally.cut)]
    return report, rows


def _rows(asked: TaskSample, name: str, samples: Sequence[Sample], cut: Container[Hashable]) -> list[SampleRow]:
    """Return one row per item; lm-eval logs one per filter. `cut` has the places whose answers reached the limit."""
    wanted, task = asked.settings, asked.tasks[name]
    by_item: dict[int, dict[str, Sample]] = {}
    for sample in samples:
        by_item.setdefault(int(sample["doc_id"]), {})[str(sample["filter"])] = sample
    rows = []
    # A request knows the place of its item in the sample, a logged sample the item.
    for place, (index, filters) in enumerate(sorted(by_item.items())):
        shown = filters[wanted.filter]
        if wanted.metric not in shown:
            raise lm_eval_tasks.no_such_metric(f"eval.tasks.{asked.label}", wanted.metric, name, list(shown["metrics"]))
        row: SampleRow = {
            "task": name,
            "doc_id": index,
            "doc_hash": shown["doc_hash"],
            "prompt_hash": shown["prompt_hash"],
            "score": _score(asked, shown[wanted.metric]),
            "scores": {key: _score(asked, sample[wanted.metric]) for key, sample in filters.items()},
            "target": shown["target"],
        }
        _add_answer(row, task, shown, wanted.metric)
        if "response" in row:
            row["unfinished"] = (name, place) in cut
        if (subject := asked.subject(name, index)) is not None:
            row["subject"] = subject
        rows.append(row)
    return rows


def _score(asked: TaskSample, value: Any) -> float:
    """Return an item's score as a fraction.

    Raises:
        ConfigError: when the metric gives single items no such score.
    """
    if isinstance(value, (bool, int, float)) or hasattr(value, "item"):
        score = float(value)
        if 0 <= score <= 1:
            return score
    raise ConfigError(
        f"eval.tasks.{asked.label}.metric={asked.settings.metric} gives an item {value!r}, not a score from 0 to 1.",
        lm_eval_tasks.MEANS,
    )


def _add_answer(row: SampleRow, task: Any, sample: Sample, metric: str) -> None:
    """Add the option that the metric scores as the answer to the row, or the response and its filtered form."""
    answers = sample["filtered_resps"]
    if task.OUTPUT_TYPE == "multiple_choice":
        options = [str(option) for option in task.doc_to_choice(sample["doc"])]
        values = [float(value) for value, _ in answers][: len(options)]
        length = LENGTHS.get(metric)
        scored = [
            value / max(1, length(each)) if length else value for value, each in zip(values, options, strict=False)
        ]
        row["answer"], row["options"], row["loglikelihoods"] = options[scored.index(max(scored))], options, values
        return
    responses = [response for responses in sample["resps"] for response in responses]
    row["filtered"] = answers[0] if len(answers) == 1 else answers
    row["response"] = responses[0] if len(responses) == 1 else responses


def summarize(asked: TaskSample, rows: Sequence[SampleRow], facts: TallyFields) -> TaskResult:
    """Return the figure of one column, also of a group: the mean over its items."""
    value, stderr = mean_and_error([row["score"] for row in rows])
    filters = {name: mean_and_error([row["scores"][name] for row in rows])[0] for name in rows[0]["scores"]}
    return TaskResult(
        task=asked.settings.task,
        metric=asked.settings.metric,
        filter=asked.settings.filter,
        value=value,
        stderr=stderr,
        n=len(rows),
        asked=asked.count,
        available=asked.available,
        filters=filters,
        **facts,
    )


def mean_and_error(scores: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error; None for the error of a single item."""
    n = len(scores)
    mean = math.fsum(scores) / n
    if n < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (n - 1) / n)


def _progress(detail: Callable[[str], None], label: str, items: int) -> Callable[[int, int], None]:
    """Return a display of answered items (a question of four options is one) with an estimate of the remaining time."""
    from rich.progress import Progress

    pace = Progress(disable=True, speed_estimate_period=30)
    bar = pace.add_task(label, total=items)

    def show(done: int, total: int) -> None:
        answered = done * items // max(1, total)
        pace.update(bar, completed=answered)
        left = pace.tasks[bar].time_remaining
        detail(f"{label} {answered}/{items}" + (f", about {clock(left)} left" if left and answered < items else ""))

    return show


def clock(seconds: float) -> str:
    """Format a duration in its largest unit."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def implied(n: int) -> str:
    """Describe the precision of `n` items: of a share at 95 %, at worst, and the difference shown with 80 % power."""
    share = 1.96 * math.sqrt(0.25 / n)
    difference = (1.96 + 0.84) * math.sqrt(USUALLY_DIFFERING / n)
    return (
        f"drawn by subject: a score to ±{100 * share:.1f} points; a difference of {100 * difference:.1f} from BF16 is "
        f"shown in four of five cases where {100 * USUALLY_DIFFERING:.0f} % of the answers differ"
    )


def remarks(label: str, figures: TaskResult) -> list[str]:
    """Return the warnings on a task's figures."""
    found = []
    if cut := figures.truncated:
        found.append(f"{label}: {cut} of {figures.n} prompts exceeded the context and lost their beginning.")
    if cut := figures.unfinished:
        found.append(f"{label}: {cut} of {figures.n} answers ended at their budget of tokens.")
    if differing := figures.differing:
        found.append(f"{label}: {differing} of {figures.asked_again} answers differed when asked again.")
    return found


def _write_rows(path: Path, rows: Sequence[SampleRow]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str), encoding="utf-8")
