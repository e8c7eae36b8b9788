"""One file of a group of `conf/` merged over the defaults in `conf/config.yaml`, without composing everything."""

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
    """Return the settings of a choice, as Hydra composes them without overrides.

    Returns:
        None if only Hydra can compose it: the file is not in the project's `conf/`, it is invalid, or it has a
        defaults list or a package directive.
    """
    paths = {path.stem: path for path in (CONF / group).glob("*.yaml")}
    if name not in paths:
        return None
    text = paths[name].read_text(encoding="utf-8")
    try:
        content = OmegaConf.create(text)
        if not isinstance(content, DictConfig) or "defaults" in content or "@package" in text:
            return None
        settings = OmegaConf.to_container(OmegaConf.merge(_defaults().get(group) or {}, content), resolve=True)
    except (YAMLError, OmegaConfBaseException):
        return None
    return {str(key): value for key, value in settings.items()} if isinstance(settings, dict) else None


@cache
def model_choice(name: str) -> Mapping[str, Any]:
    """Return what a choice of `conf/model` says of the model; empty if there is none of that name."""
    file = CONF / "model" / f"{name}.yaml"
    content = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}
    return dict(content.get("model") or {}) if isinstance(content, dict) else {}


@cache
def _defaults() -> DictConfig:
    loaded = OmegaConf.load(CONF / "config.yaml")
    assert isinstance(loaded, DictConfig)
    return loaded
