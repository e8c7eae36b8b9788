"""From what Hydra composed for the command to the settings of each variant under each protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from pipeline.config import PACKAGE, RESOURCES, Settings, Variant, choice, validate
from pipeline.errors import ConfigError

OmegaConf.register_new_resolver("package", lambda path: str(PACKAGE / path), replace=True)
OmegaConf.register_new_resolver("resource", lambda path: str(RESOURCES / path), replace=True)
# The groups that a variant chooses from.
GROUPS = ("quant", "kv_cache")
# An override of something within them: `quant.group_size=64`, `+kv_cache.x=1`.
WITHIN = re.compile(rf"[+~]*({'|'.join(GROUPS)})[.@]")


def compose_variants(config: DictConfig, overrides: list[str]) -> list[Settings]:
    """The settings of each variant asked for, under each protocol, all checked before any runs.

    Raises:
        ConfigError: with the errors of all variants.
    """
    plain = _plain(config)
    if plain["variants"] is None and plain["protocols"] is None:
        return [validate(plain)]
    kernel = plain["serve"]["kernel"]
    if plain["variants"] is not None:
        # Held against the scheme of each variant that names no kernel of its own.
        plain["serve"]["kernel"] = "auto"
    first = validate(plain)
    replaced = ("quant=", "kv_cache=", "serve.kernel=") if first.variants else ()
    base = [o for o in overrides if not o.startswith((*replaced, *(("bench=",) if first.protocols else ())))]
    variants = [Variant.parse(text, kernel) for text in first.variants or ()]
    under = {name: _under(variants, plain, base, name) for name in first.protocols or (None,)}
    found, problems = [], []
    for index, text in enumerate(first.variants or (None,)):
        for protocol, outcomes in under.items():
            outcome = outcomes[index]
            if isinstance(outcome, Settings):
                found.append(outcome)
                continue
            named = (f"{what}: {name}" for what, name in (("variants", text), ("protocols", protocol)) if name)
            problems.append(f"{' '.join(named)}: {outcome}")
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return found


def _under(
    variants: list[Variant], plain: dict[str, Any], overrides: list[str], protocol: str | None
) -> Sequence[Settings | str]:
    """Under one protocol the settings of each variant, or of the one configured; in their place what is wrong."""
    if protocol is not None:
        overrides = [*overrides, f"bench={protocol}"]
        composed = _composed(overrides)
        if isinstance(composed, str):
            return [composed] * max(1, len(variants))
        plain = composed
    return [_checked(each) for each in _each(variants, plain, overrides)] if variants else [_checked(plain)]


def _each(variants: list[Variant], plain: dict[str, Any], overrides: list[str]) -> Iterator[dict[str, Any] | str]:
    """What is configured, with each variant's choices in the place of its own.

    Composing takes a fifth of a second. It is only needed where something beside the files of a variant's groups has a
    say in them: an override, an experiment, a file of the user's.
    """
    files_decide = not any(WITHIN.match(override) for override in overrides) and all(
        plain[group] == choice(group, plain[group]["name"]) for group in GROUPS
    )
    for variant in variants:
        quant, kv_cache = choice("quant", variant.quant), choice("kv_cache", variant.kv_cache)
        if files_decide and quant and kv_cache:
            yield plain | {
                "quant": quant,
                "kv_cache": kv_cache,
                "serve": plain["serve"] | {"kernel": variant.kernel},
            }
        else:
            chosen = (f"quant={variant.quant}", f"kv_cache={variant.kv_cache}", f"serve.kernel={variant.kernel}")
            yield _composed([*overrides, *chosen])


def _composed(overrides: list[str]) -> dict[str, Any] | str:
    """What Hydra makes of these overrides, or what it says is wrong with them."""
    try:
        return _plain(hydra.compose("config", overrides))
    except HydraException as error:
        return str(error).strip()


def _checked(plain: dict[str, Any] | str) -> Settings | str:
    """The settings, or what is wrong with them."""
    if isinstance(plain, str):
        return plain
    try:
        return validate(plain)
    except ConfigError as error:
        return error.problem


def _plain(config: DictConfig) -> dict[str, Any]:
    return dict(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
