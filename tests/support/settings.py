"""Settings as the command composes them from overrides, for the tests that run stages in their own process."""

from __future__ import annotations

import copy
import functools
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from pipeline.config import PROJECT_ROOT, Settings, validate
from pipeline.config.command_line import translated
from pipeline.config.compose import compose_variants
from pipeline.config.messages import of_hydra

CONF = PROJECT_ROOT / "conf"
OUTPUTS = "outputs="


@functools.cache
def _composed(*overrides: str) -> dict[str, Any]:
    """Composing takes a quarter of a second; the files in conf/ do not change while tests run."""
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        return dict(OmegaConf.to_container(hydra.compose("config", list(overrides)), resolve=True))  # type: ignore[arg-type]


def compose(*overrides: str) -> dict[str, Any]:
    """The configuration as a plain dict of the caller's own.

    The folder of results is another one in each test, and no other setting is made of it: it is put in afterwards.
    """
    given = dict(override.split("=", 1) for override in overrides if override.startswith(OUTPUTS))
    composed = copy.deepcopy(_composed(*(override for override in overrides if not override.startswith(OUTPUTS))))
    return composed | given


def settings_of(*overrides: str) -> Settings:
    """The validated settings."""
    return validate(compose(*overrides))


def variants_of(*overrides: str) -> list[Settings]:
    """The settings of each variant under each protocol."""
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        return compose_variants(hydra.compose("config", list(overrides)), list(overrides))


def command_of(*words: str) -> list[Settings]:
    """The settings of each variant, as from the words of a command line."""
    given = [word for word in translated(words) if word not in ("-m", "--multirun")]
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        try:
            return compose_variants(hydra.compose("config", given), given)
        except HydraException as error:
            raise of_hydra(error, Settings) from None
