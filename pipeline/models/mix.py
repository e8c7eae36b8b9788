"""The choice of formats in a checkpoint of a mix: `mix.json`, written by `quantize` (`results.mix`)."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import ChosenSettings, QuantSettings
from pipeline.errors import InputError
from pipeline.formats.schemes import SCHEMES
from pipeline.json_files import read_json_object

FILE = "mix.json"
# The format of groups that are not rounded.
UNROUNDED = "BF16"


def formats(folder: Path) -> dict[str, str]:
    """Return the scheme of each Linear of the decoder in a checkpoint of a mix, `UNROUNDED` where it has none.

    Raises:
        InputError: if the checkpoint does not say it.
    """
    try:
        groups = read_json_object(folder / FILE)["groups"]
        found = {str(module): str(group["format"]) for group in groups for module in group["modules"]}
    except (LookupError, TypeError) as error:
        raise InputError(f"{folder / FILE} does not say which format each module has ({error!r}).") from None
    if unknown := {*found.values()} - {*SCHEMES, UNROUNDED}:
        raise InputError(f"{folder / FILE} has {min(unknown)}, a format that is not known.")
    return found


def chosen(quant: QuantSettings, folder: Path) -> ChosenSettings:
    """Return the settings of a mix with the format of each module of a checkpoint.

    Raises:
        InputError: if the checkpoint does not say it.
    """
    found = formats(folder)
    rounded = {module: name for module, name in found.items() if name != UNROUNDED}
    return ChosenSettings.of_mix(quant, rounded, tuple(module for module in found if module not in rounded))
