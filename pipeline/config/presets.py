"""What one file of a group of `conf/` says, over the defaults in `conf/config.yaml`, without composing it all."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipeline.config.resources import RESOURCES

CONF = RESOURCES / "conf"


@cache
def choice(group: str, name: str) -> Mapping[str, Any] | None:
    """The settings that a choice stands for, as Hydra composes them where nothing else has a say.

    Returns:
        None where only Hydra can tell: there is no such file in the project's `conf/`, it is no good, or it has a
        defaults list or a package of its own.
    """
    paths = {path.stem: path for path in (CONF / group).glob("*.yaml")}
    if name not in paths:
        return None
    text = paths[name].read_text(encoding="utf-8")
    try:
        said = OmegaConf.create(text)
        if not isinstance(said, DictConfig) or "defaults" in said or "@package" in text:
            return None
        found = OmegaConf.to_container(OmegaConf.merge(_defaults().get(group) or {}, said), resolve=True)
    except (YAMLError, OmegaConfBaseException):
        return None
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else None


@cache
def _defaults() -> DictConfig:
    loaded = OmegaConf.load(CONF / "config.yaml")
    assert isinstance(loaded, DictConfig)
    return loaded
