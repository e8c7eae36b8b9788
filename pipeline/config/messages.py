"""Errors of Hydra and pydantic as ConfigErrors: the setting, the fault, the nearest names, the words to type.

The only place where either library's errors are read. Checks of this project's own raise sentences that need no
translation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from pipeline.config.names import did_you_mean, field_at, groups, nearest, nearest_settings
from pipeline.config.serve import PARALLEL
from pipeline.errors import ConfigError

SEE_ALL = "`python -m pipeline --cfg job` prints every setting with its value."
# Faults by pydantic's type of error. Others keep pydantic's words, which name the limit that is exceeded.
FAULTS = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "not a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "not a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "neither true nor false"),
    **dict.fromkeys(("tuple_type", "list_type"), "not a list [a, b]"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "not a mapping {name: value}"),
    **dict.fromkeys(("string_type", "path_type"), "not a text"),
    "too_short": "empty, and needs a value at least",
}
NUMBERS = ("not a whole number", "not a number")
_WITH_UNIT = re.compile(r"(?P<number>[\d.]+)\s*(?P<unit>[A-Za-z%]+)")
# What a group is asked for when none of its choices fits.
WAYS_OUT = {
    "model": "Your own model is model=<owner/name of the hub> or model=<folder>.",
    "hardware": "hardware=auto finds this machine's GPU; hardware.gpu=h100_sxm asks about another one.",
}


def of_validation(error: ValidationError, root: type[BaseModel]) -> ConfigError:
    """Return the error of settings that pydantic refused, a line for each.

    Args:
        error: of `root`.
        root: the class of all settings.
    """
    lines: dict[str, str] = {}
    for item in error.errors():
        where, _ = field_at(root, item["loc"])
        # Of a setting with several types there is an error for each.
        lines.setdefault(where or item["msg"], _sentence(item, root))
    return ConfigError("\n".join(lines.values()), f"\n{SEE_ALL}")


def _sentence(item: Any, root: type[BaseModel]) -> str:
    """Return a pydantic error as a line with the setting, its value and the fault."""
    where, field = field_at(root, item["loc"])
    if item["type"] == "extra_forbidden":
        return no_setting(where, root)
    message = item["msg"].removeprefix("Value error, ")
    if not where:  # a check across groups; its message names the settings
        return f"{message}."
    if item["type"] == "value_error":
        return f"{where}: {message}."
    about = f" ({field.description})" if field is not None and field.description else ""
    if item["type"] == "missing":
        return f"{where} is not set{about}."
    fault = FAULTS.get(item["type"])
    if fault is None:
        return f"{where}={item['input']!r}: {message[:1].lower()}{message[1:]}."
    parts = _WITH_UNIT.fullmatch(str(item["input"])) if fault in NUMBERS else None
    if parts and parts["number"].count(".") < 2:
        fault = f"{fault}; write it out, without {parts['unit']}"
    return f"{where}={item['input']!r}: {fault}{about}."


def no_setting(name: str, root: type[BaseModel]) -> str:
    """Return the sentence on an unknown setting."""
    meant = did_you_mean(nearest_settings(name, root))
    said = f"There is no setting {name}{f'; {meant}' if meant else '.'}"
    option = name.removeprefix("serve.").replace("_", "-")
    if not name.startswith("serve.") or f"--{option}" in PARALLEL:
        return said
    return f"{said} vLLM's own options go through serve.extra_args: 'serve.extra_args=[--{option}=...]'."


def of_hydra(error: Exception, root: type[BaseModel]) -> ConfigError:
    """Return the error of a configuration that Hydra did not compose.

    Args:
        error: Hydra's, or OmegaConf's.
        root: the class of all settings.
    """
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return no_choice(group, name, error.options or ())
    text = str(error)
    for pattern, translate in _REFUSALS:
        if found := pattern.search(text):
            return translate(found, root)
    cause = error.__cause__
    reason = cause if isinstance(cause, OmegaConfBaseException) else error
    return ConfigError(f"{str(reason).strip().splitlines()[0].rstrip('.')}.", SEE_ALL)


def no_choice(group: str, name: str, known: Any) -> ConfigError:
    """Return the error for a choice that a group does not have."""
    # A set of evaluation tasks that derives from another names it without its group.
    found = sorted(map(str, known))
    meant = did_you_mean(nearest(name, found))
    listing = "" if len(found) > 12 else f" Choices: {', '.join(found)}."
    return ConfigError(
        f"{group or 'conf'}={name}: there is no such choice{f'; {meant}' if meant else '.'}{listing}",
        " ".join(filter(None, (WAYS_OUT.get(group), f"`python -m pipeline --help {group}` describes all of them."))),
    )


def _unreadable(override: str) -> ConfigError:
    name, equals, value = override.partition("=")
    if not equals:
        return ConfigError(f"{override}: settings are written name=value.", SEE_ALL)
    inside = value.replace("\\", "\\\\").replace('"', '\\"')
    return ConfigError(
        f"{name}: the value {value} cannot be read: it has letters or signs that need quotes.",
        f"Put it in quotes, and these in quotes of the shell: '{name}=\"{inside}\"'.",
    )


def _unknown(found: re.Match[str], root: type[BaseModel]) -> ConfigError:
    name = found[1].lstrip("+~")
    known, field = field_at(root, name.split("."))
    parent, _, leaf = name.rpartition(".")
    if field is not None and known == name and parent:
        group = name.partition(".")[0]
        return ConfigError(
            f"{name}: {parent} is null here, and has no settings.",
            f"Give it whole, '{parent}={{{leaf}: ...}}', or choose {group}=... that has it; "
            f"`python -m pipeline --help {group}` describes all of them.",
        )
    return ConfigError(no_setting(name, root), SEE_ALL)


def _ambiguous(found: re.Match[str], root: type[BaseModel]) -> ConfigError:
    name, _, values = found[1].partition("=")
    if field_at(root, name.split("."))[1] is None and name not in groups():
        return ConfigError(no_setting(name, root), SEE_ALL)
    ways = f"A job for each: -m {name}={values}."
    if name in ("quant", "kv_cache"):
        several = values if name == "quant" else ",".join(f"bf16+{each}" for each in values.split(","))
        ways = f"In one report: variants={several}. {ways}"
    return ConfigError(f"{name}={values}: it takes one value, and these are several.", ways)


def _no_mapping(found: re.Match[str], root: type[BaseModel]) -> ConfigError:
    name, _, value = found[1].lstrip("+").partition("=")
    where, field = field_at(root, name.split("."))
    about = f" ({field.description})" if field is not None and field.description else ""
    return ConfigError(
        f"{where}={value}: {FAULTS['dict_type']}{about}.", f"Without one of them: '~{where}.<name>'; {SEE_ALL}"
    )


def _exists(found: re.Match[str], _: type[BaseModel]) -> ConfigError:
    return ConfigError(f"{found[1]} has a value already.", f"Write {found[1]}=..., without +.")


def _no_such_group(found: re.Match[str], root: type[BaseModel]) -> ConfigError:
    return ConfigError(no_setting(found[1].partition("=")[0].partition("@")[0].replace("/", "."), root), SEE_ALL)


def _merged(found: re.Match[str], _: type[BaseModel]) -> ConfigError:
    return ConfigError(
        f"{found[1]}: tasks have names, and are added and left out one by one.",
        "Add '+eval.tasks.HellaSwag={task: hellaswag, metric: acc_norm}', and leave out '~eval.tasks.MMLU'.",
    )


_Translation = Callable[[re.Match[str], type[BaseModel]], ConfigError]
# Hydra tells these errors apart by their text alone.
_REFUSALS: tuple[tuple[re.Pattern[str], _Translation], ...] = (
    (re.compile(r"(?:Error merging override \+*|Could not override ')(eval\.tasks(?:=.*)?)(?![.\w])"), _merged),
    (re.compile(r"Could not (?:override|delete) '([^']+)'"), _unknown),
    (re.compile(r"Could not delete from config\. '([^']+)'"), _unknown),
    (re.compile(r"Ambiguous value for argument '([^']+)'"), _ambiguous),
    (re.compile(r"Error merging override (.+)"), _no_mapping),
    (re.compile(r"An item is already at '([^']+)'"), _exists),
    (re.compile(r"Override (\S+) looks like a config group"), _no_such_group),
)
