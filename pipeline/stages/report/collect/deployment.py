"""Commands to copy: `vllm serve` for each variant, and the run that would decide what is open."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Sequence

from pipeline.compare.decide.decision import Decision
from pipeline.config import PACKAGE, Command, ModelSettings, ServeSettings, Settings, Stage, Variant
from pipeline.config.command_line import STUDY, without_implied
from pipeline.config.presets import model_choice
from pipeline.config.serve import parallel_options
from pipeline.stages.report.collect.artifacts import Source

# Settings of a command that its successor names otherwise (the model, the variants), or does not need.
ELSEWHERE = (
    *("model", "model.name", "model.path", "model.hub_id", "model.weights"),
    *("variants", "quant", "kv_cache", "add_bf16", "stage", "dry_run"),
)
# Settings of the report that the answer depends on.
KEPT_OF_REPORT = ("report.constraints", "report.objective", "report.margin")


def serve_options(serve: ServeSettings, served: Variant, kv_dtype: str, *, trust_remote_code: bool) -> list[str]:
    """Return the options of `vllm serve` that a deployment needs; those of the measurement alone are left out."""
    given = {
        "--kv-cache-dtype": None if kv_dtype == "auto" else kv_dtype,
        "--dtype": None if serve.dtype == "auto" else serve.dtype,
        "--max-model-len": serve.max_model_len,
        "--linear-backend": None if served.kernel == "auto" else served.kernel,
        **parallel_options(served.tensor_parallel, served.data_parallel),
    }
    options = [str(part) for option in given.items() if option[1] is not None for part in option]
    return [*options, *(["--trust-remote-code"] if trust_remote_code else [])]


def serve_commands(settings: Settings, found: Sequence[Source]) -> dict[str, str]:
    """Return the command that serves each variant whose checkpoint is on this machine or on the hub."""
    commands = {}
    for source in found:
        if settings.model.weights == "random" or not (model := _model(settings, source)):
            continue
        options = serve_options(
            settings.serve,
            source.variant,
            source.kv_dtype,
            trust_remote_code=settings.model.trust_remote_code,
        )
        commands[source.name] = shlex.join(["vllm", "serve", model, *options, *settings.serve.extra_args])
    return commands


def _model(settings: Settings, source: Source) -> str:
    """Return what vLLM loads: a hub id, or an absolute path; empty if the checkpoint is not here."""
    if source.quant.get("engine") == "none":
        path = settings.model.path
        return str(settings.model.hub_id or "") if path is None else str(path.resolve()) if path.is_dir() else ""
    folder = source.folders.get(Stage.QUANTIZE)
    checkpoint = None if folder is None else folder.resolve() / "checkpoint"
    if checkpoint is None or not checkpoint.is_dir():
        return ""
    return str(next(checkpoint.glob("*.gguf"), checkpoint))


def _model_words(model: ModelSettings) -> list[str]:
    """Return the words of the command line that name a model: its choice in `conf/model`, else its source."""
    is_choice = _is_choice(model)
    words = [f"model={model.name}"] if is_choice else []
    if model.path is not None and not model.path.is_relative_to(PACKAGE):
        words.append(f"model.path={model.path}")
    elif not words:
        words.append(f"model.hub_id={model.hub_id}")
    unnamed = ModelSettings.model_validate({"path": model.path, "hub_id": model.hub_id})
    if not is_choice and unnamed.name != model.name:
        words.append(f"model.name={model.name}")
    return [*words, *(["model.weights=random"] if model.weights == "random" else [])]


def _is_choice(model: ModelSettings) -> bool:
    """Return whether a model is the one of `conf/model` with its name, which a folder of any model may have."""
    named = model_choice(model.name)
    comes_with_project = model.path is not None and model.path.is_relative_to(PACKAGE)
    if model.hub_id is None and not comes_with_project:
        return False
    return bool(named) and (named.get("hub_id"), named.get("shape", {})) == (model.hub_id, model.shape)


def _given(overrides: Sequence[str], replaced: Collection[str]) -> Iterator[str]:
    """Yield the settings of the user that a further command needs to find these results, but for those replaced."""
    for override in overrides:
        name = override.lstrip("+").partition("=")[0]
        is_kept = name.startswith(KEPT_OF_REPORT) or not name.startswith("report.")
        # The study is its variants alone; an experiment of the user's may be more.
        if is_kept and name not in (*ELSEWHERE, *replaced) and override != f"experiment={STUDY}":
            yield override


def next_command(settings: Settings, decision: Decision, variants: Sequence[str], overrides: Sequence[str] = ()) -> str:
    """Return the command that measures what the decision needs of these variants; empty if it needs nothing.

    Args:
        settings: of the run.
        decision: what is open.
        variants: their names.
        overrides: settings that the run was given; the load, the data and the folder of results stay the same.
    """
    # The answers of random weights have no quality to score.
    stages = [stage for stage in decision.stages if stage != "eval" or settings.model.weights != "random"]
    if not stages:
        return ""
    asked = {"variants": f"[{','.join(variants)}]", "stage": f"[{','.join((*stages, Command.REPORT))}]"}
    if Stage.BENCH in stages and not settings.protocols:
        asked["bench"] = settings.bench.name
    if Stage.EVAL in stages:
        asked["eval"] = settings.eval.name
    if decision.serve_args:
        given = settings.serve.extra_args
        new = [each for each in decision.serve_args if not any(each.partition("=")[0] in word for word in given)]
        asked["serve.extra_args"] = json.dumps([*given, *new], separators=(",", ":"))
    elif Stage.BENCH in stages:
        asked["bench.blocks"] = str(settings.bench.blocks + 1)
    if decision.needs_items and settings.eval.limit is not None:
        asked["eval.limit"] = "null"
    words = [*_model_words(settings.model), *_given(overrides, asked), *(f"{name}={asked[name]}" for name in asked)]
    return shlex.join(["python", "-m", "pipeline", *without_implied(words)])
