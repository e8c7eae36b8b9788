"""Words of the command line as Hydra is given them: quoted where they must be, and with the settings that they imply.

Hydra reads a language of its own. What a shell user types is not always in it (`~`, paths with commas, a list without
brackets), and a setting alone may leave what belonged to another one (the demo's path beside a hub id). Each rule here
is one of the two kinds; what no rule fits goes to Hydra as it was typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_origin

from pydantic.fields import FieldInfo

from pipeline.config import credentials, data_dir
from pipeline.config.base import Command, Stage
from pipeline.config.dataset import DatasetSettings
from pipeline.config.names import (
    choices,
    did_you_mean,
    field_at,
    fields_of,
    groups,
    is_mapping,
    nearest_settings,
    section_of,
    spelled,
    types_of,
)
from pipeline.config.settings import Settings
from pipeline.errors import ConfigError
from pipeline.hardware.probe import probe

# Hydra's options, and those of them that take the next word.
WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--experimental-rerun")
FOLDERS = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
FLAGS = ("--hydra-help", "--resolve", "--run", "-r", "--multirun", "-m", "--shell-completion", "-sc")
SWEEPS = {"--multirun", "-m"}
# Text that Hydra reads as it stands, as text.
SAFE = re.compile(r"[A-Za-z_/.][A-Za-z0-9_/.+@%-]*")
RESERVED = {"null", "true", "false", "inf", "nan"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# The choice of `conf/model` for a checkpoint of the user's.
CUSTOM = "custom"
# The choice that comes with the project; it is no other checkpoint's name.
DEMO = "demo"
# The variants where none are named.
STUDY = "study"
# Choices for a checkpoint of the user's where there is no GPU: the study's method, in an hour or two.
WITHOUT_GPU = {"calibration": "laptop", "bench": "laptop", "eval": "laptop"}
# Loads of a checkpoint of the user's on a GPU: saturation, which the study measured, and what few users feel.
OF_LOADS = ("bench", "protocols", "eval.budget_minutes", "serve.url")
LOADS = "[study,ladder_quick]"
QUOTES = "'\""
OPENING, CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Override:
    """One word `name=value`; `sign` is Hydra's + or ++ in front of it."""

    sign: str
    name: str
    value: str

    @classmethod
    def parse(cls, word: str) -> Override:
        """Read a word with an equals sign."""
        name, _, value = word.partition("=")
        bare = name.lstrip("+")
        return cls(name[: len(name) - len(bare)], bare, value)

    def __str__(self) -> str:
        """The word."""
        return f"{self.sign}{self.name}={self.value}"


def translated(words: Sequence[str]) -> list[str]:
    """Return the words for Hydra.

    Raises:
        ConfigError: on a word that is neither an option nor a setting with its value, with the word to type.
    """
    options, rest = _divided(words)
    is_sweep = bool(SWEEPS & set(options))
    folders = [Path(options[at + 1]) for at, word in enumerate(options[:-1]) if word in ("--config-dir", "-cd")]
    rest = [word for word in _whole(rest) if word]
    others = [word for word in rest if word.startswith("~") or word.startswith("hydra")]
    given = [Override.parse(word) for word in _with_equals(rest) if word not in others]
    credentials.check((each.name, each.value) for each in (*given, *map(Override.parse, others)))
    found = [each for override in _with_data(given) for each in _rewritten(override, folders, is_sweep=is_sweep)]
    return [*options, *others, *map(str, (*_implied(found), *found))]


def _divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return Hydra's options with their values, and all other words."""
    options: list[str] = []
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name = word.partition("=")[0]
        if name in (*WITH_VALUE, *FOLDERS):
            options.append(word)
            if "=" not in word and queue:
                options.append(queue.pop(0))
        elif name in FLAGS:
            options.append(word)
        elif word.startswith("-"):
            raise _no_option(word, queue)
        else:
            rest.append(word)
    return options, rest


def _no_option(word: str, following: Sequence[str]) -> ConfigError:
    """Return the error for an option that there is not: settings have no dashes."""
    name, equals, value = word.lstrip("-").partition("=")
    name = name.replace("-", "_")
    known = dict(fields_of(Settings))
    if name not in (*known, *groups(), data_dir.DATA_DIR):
        name = next(iter(nearest_settings(name, Settings)), "")
    if not name:
        return ConfigError(f"{word}: there is no such option.", "`python -m pipeline --help` has the main commands.")
    if not equals:
        is_switch = name in known and bool in types_of(known[name].annotation)
        value = "true" if is_switch else next((each for each in following if "=" not in each), "...")
    return ConfigError(f"{word}: there is no such option.", f"Settings have no dashes: {name}={value}.")


def _whole(words: Sequence[str]) -> Iterator[str]:
    """Yield the words; refuse a list that the shell split at its spaces."""
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if _depth(word) <= 0:
            yield word
            continue
        joined = word
        while queue and _depth(joined) > 0:
            joined = f"{joined} {queue.pop(0)}"
        if _depth(joined) > 0:
            raise ConfigError(f"{word}: a bracket is not closed.", "A list is written 'name=[a,b]', in quotes.")
        raise ConfigError(f"{word}: the shell split the value at its spaces.", f"Quote it: {shell(joined)}.")


def _with_equals(words: Sequence[str]) -> Iterator[str]:
    """Yield the words; refuse one without an equals sign."""
    before = ""
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise _no_value(word, before)
        yield word
        before = word


def _no_value(word: str, before: str) -> ConfigError:
    """Return the error for a word that is no setting, with the one that it may have been meant for."""
    said = f"{word}: settings are written name=value."
    name = before.partition("=")[0]
    if before and _is_list(field_at(Settings, name.split("."))[1]):
        return ConfigError(said, f"Several values of {name} are joined by commas: {before},{word}.")
    stages = [each.value for each in (*Stage, *Command)]
    if spelled(word, stages) in (*stages, "all"):
        return ConfigError(said, f"Did you mean stage={spelled(word, stages)}?")
    meant = [f"{group}={name}" for group in groups() if (name := spelled(word, choices(group))) in choices(group)]
    if "/" in word or Path(word).is_dir():
        meant = [f"model={word}"]
    question = did_you_mean(meant[:3])
    return ConfigError(
        said, question[0].upper() + question[1:] if question else "`python -m pipeline --help` lists them."
    )


def _with_data(given: Sequence[Override]) -> Iterator[Override]:
    """Yield the overrides, and before them the settings that `data_dir` stands for and that are not given."""
    named = {each.name for each in given}
    # Of a data set either source is enough.
    named |= {f"{each.name.removesuffix('.hub_id')}.path" for each in given if each.name.endswith(".hub_id")}
    for each in given:
        if each.name == data_dir.DATA_DIR:
            folder = Path(each.value.strip(QUOTES)).expanduser()
            found = data_dir.settings_for(folder)
            yield from (Override("", name, str(path)) for name, path in found if name not in named)
    yield from (each for each in given if each.name != data_dir.DATA_DIR)


def _rewritten(override: Override, folders: Sequence[Path], *, is_sweep: bool) -> list[Override]:
    """Return an override with its value as Hydra reads it; several where it names a model of the user's."""
    group = override.name.partition("@")[0]
    if group in groups():
        return _chosen(override, group, folders, is_sweep=is_sweep)
    field = field_at(Settings, override.name.split("."))[1]
    if field is None or override.value in ("", "null") or "${" in override.value:
        return [override]
    if _is_dataset(field) and not override.value.startswith("{"):
        return _rewritten(replace(override, name=f"{override.name}.path"), folders, is_sweep=is_sweep)
    takes_text = _takes_text(field)
    parts = split(override.value) if is_sweep else [override.value]
    if _is_list(field):
        values = [_listed(part, takes_text=takes_text, is_sweep=is_sweep) for part in parts]
    else:
        values = [_text(part) if takes_text else part for part in parts]
    return [replace(override, value=",".join(values))]


def _is_dataset(field: FieldInfo) -> bool:
    """Return whether a setting is one data set, of which a path alone is enough."""
    section = section_of(field)
    return section is not None and issubclass(section, DatasetSettings) and not is_mapping(field)


def _takes_text(field: FieldInfo) -> bool:
    """Return whether the values of a setting, or of its list, are texts or paths."""
    types = list(types_of(field.annotation))
    is_number = bool({int, float, bool} & {each for each in types if isinstance(each, type)})
    is_words = not (is_number or is_mapping(field) or section_of(field))
    is_fixed = str not in types and Path not in types and not _is_list(field)
    return is_words and not is_fixed


def _is_list(field: FieldInfo | None) -> bool:
    return field is not None and any(get_origin(kind) is tuple for kind in types_of(field.annotation))


def _listed(text: str, *, takes_text: bool, is_sweep: bool) -> str:
    """Return a list, written with brackets or without; one value without brackets stays one."""
    is_bracketed = text.startswith("[") and text.endswith("]")
    if not is_bracketed and is_sweep:
        return _text(text) if takes_text else text
    parts = split(text[1:-1] if is_bracketed else text)
    values = [_text(part) if takes_text else part for part in parts if part]
    return f"[{','.join(values)}]" if is_bracketed or len(parts) > 1 else values[0]


def _text(text: str) -> str:
    """Return a text as Hydra reads it."""
    is_quoted = len(text) > 1 and text[0] in QUOTES and text[-1] == text[0]
    return text if is_quoted or (SAFE.fullmatch(text) and text.lower() not in RESERVED) else quoted(text)


def quoted(text: str) -> str:
    """Return a text in Hydra's quotes; backslashes have a meaning only before a quote."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def shell(word: str) -> str:
    """Return a word as it is typed in a shell."""
    return f'"{word}"' if "'" in word else f"'{word}'"


def split(text: str) -> list[str]:
    """Split at commas outside quotes and brackets; without the spaces around."""
    parts, depth, quote, start = [], 0, "", 0
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote and text[place - 1] != "\\" else quote
        elif sign in QUOTES:
            quote = sign
        elif sign in OPENING:
            depth += 1
        elif sign in CLOSING:
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _depth(word: str) -> int:
    """Return the number of brackets of a value that are not closed; brackets of a path count as its letters."""
    name, _, value = word.partition("=")
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", value)
    if not bare.startswith(tuple(OPENING)) and not _is_list(field_at(Settings, name.lstrip("+").split("."))[1]):
        return 0
    return sum(bare.count(sign) for sign in OPENING) - sum(bare.count(sign) for sign in CLOSING)


def _chosen(override: Override, group: str, folders: Sequence[Path], *, is_sweep: bool) -> list[Override]:
    """Return the choice of a group by its own spelling; for a model of the user's, its source."""
    if override.value.startswith("["):
        raise ConfigError(
            f"{override}: {group} takes one choice.", f"A job for each: -m {group}={override.value.strip('[]')}."
        )
    known = choices(group, folders)
    parts = split(override.value) if is_sweep else [override.value]
    sources = [_source_of(part, known) for part in parts] if override.name == "model" else [""]
    if any(sources):
        if len(set(sources)) > 1:
            raise ConfigError(
                f"{override}: a sweep goes over models of one kind.",
                "Name folders, ids of the hub, or choices of conf/model.",
            )
        values = ",".join(_text(part) for part in parts)
        return [replace(override, value=CUSTOM), Override("", sources[0], values)]
    return [replace(override, value=",".join(spelled(part, known) for part in parts))]


def _source_of(name: str, known: Sequence[str]) -> str:
    """Return the setting that takes a model's folder or hub id; empty for a choice of `conf/model`."""
    text = name.strip(QUOTES)
    if not text or text in known or "${" in text:
        return ""
    if Path(text).expanduser().exists() or text.startswith(("/", ".", "~")):
        return "model.path"
    if HUB_ID.fullmatch(text):
        return "model.hub_id"
    return "model.path" if "/" in text else ""


def without_implied(words: Sequence[str]) -> list[str]:
    """Return the settings of a command without those that `translated` adds to the others."""
    given = {word: Override.parse(word) for word in words}
    may_be = {word for word, each in given.items() if _may_be_implied(each)}
    again = {str(each) for each in _implied([each for word, each in given.items() if word not in may_be])}
    return [word for word in words if word not in may_be & again]


def _may_be_implied(override: Override) -> bool:
    chosen = {**WITHOUT_GPU, "model": CUSTOM, "experiment": STUDY, "protocols": LOADS}
    is_left_out = override.sign == "++" and override.value == "null"
    return is_left_out or chosen.get(override.name) == override.value


def _implied(given: Sequence[Override]) -> Iterator[Override]:
    """Yield the settings that the given ones imply."""
    values: dict[str, Any] = {each.name: each.value for each in given}
    yield from _of_the_model(values)
    for dotted, field in fields_of(Settings):
        section = section_of(field)
        if section is not None and _is_dataset(field):
            yield from _of_a_dataset(dotted, section, values)
    formats = {"variants", "experiment", "quant", "kv_cache"} & set(values)
    stages = set(split(values.get("stage", "all").strip("[]")))
    if "serve.url" in values and not formats:
        raise ConfigError(
            f"serve.url={values['serve.url'].strip(QUOTES)}: results are stored by the format that the server has.",
            "Say which: quant=bf16, or fp8_dynamic, awq, ... (`python -m pipeline --help quant`).",
        )
    if "serve.url" in values and (several := {"quant", "kv_cache"} & {name for name in formats if "," in values[name]}):
        name = min(several)
        raise ConfigError(
            f"{name}={values[name]}: these are several, and serve.url={values['serve.url']} has one checkpoint.",
            "Name the one that it serves; another one is another server, and another command.",
        )
    if not formats and stages != {Command.CAPABILITIES.value}:
        yield Override("", "experiment", STUDY)


def _of_the_model(values: dict[str, str]) -> Iterator[Override]:
    """Yield what a source of the model replaces: nothing of the default model, or of another source, is left."""
    sources = [each for each in ("model.path", "model.hub_id") if values.get(each, "null") not in ("null", "")]
    if not sources:
        return
    if values.get("model") == DEMO:
        source = f"{sources[0]}={values[sources[0]]}"
        raise ConfigError(f"model={DEMO} and {source} name two models.", f"Leave out model={DEMO}.")
    if "model" not in values:
        yield Override("", "model", CUSTOM)
    is_custom, may_have_a_gpu = values.get("model", CUSTOM) == CUSTOM, _may_have_a_gpu(values)
    if is_custom and may_have_a_gpu and not any(name.startswith(OF_LOADS) for name in values):
        yield Override("", "protocols", LOADS)
    if is_custom and not may_have_a_gpu:
        replaced = {"bench"} if "protocols" in values else set()
        given = {group for group in WITHOUT_GPU if group in values} | replaced
        yield from (Override("", group, name) for group, name in WITHOUT_GPU.items() if group not in given)
    if "model.hub_id" in values and "model.path" not in values:
        for name in ("path", "revision", "name"):
            if f"model.{name}" not in values:
                yield Override("++", f"model.{name}", "null")


def _may_have_a_gpu(values: dict[str, str]) -> bool:
    """Return whether a GPU is here, or asked for by name."""
    asked = values.get("hardware.device", "auto")
    return asked == "cuda" or "hardware.gpu" in values or (asked == "auto" and probe("auto").device == "cuda")


def _of_a_dataset(dotted: str, section: type[Any], values: dict[str, str]) -> Iterator[Override]:
    """Yield what a source of a data set replaces."""
    sources = [name for name in ("hub_id", "path") if values.get(f"{dotted}.{name}", "null") != "null"]
    if not sources:
        return
    for name in section.model_fields:
        if name in ("path", "hub_id", "hub_file", "revision", "subset", "split") and f"{dotted}.{name}" not in values:
            yield Override("++", f"{dotted}.{name}", "null")
