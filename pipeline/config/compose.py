"""The settings of each variant under each protocol, from the configuration that Hydra composed."""

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
# The groups whose choices define a variant.
GROUPS = ("quant", "kv_cache")
# An override of a setting inside them: `quant.group_size=64`, `+kv_cache.x=1`.
WITHIN = re.compile(rf"[+~]*({'|'.join(GROUPS)})[.@]")


def compose_variants(config: DictConfig, overrides: list[str]) -> list[Settings]:
    """Return the settings of each requested variant under each protocol, all validated before any runs.

    Raises:
        ConfigError: with the errors of all variants.
    """
    plain = _plain(config)
    if plain["variants"] is None and plain["protocols"] is None:
        return [validate(plain)]
    kernel = plain["serve"]["kernel"]
    if plain["variants"] is not None:
        # Validated per variant below, against that variant's scheme.
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
    """Return the settings of each variant (or the configured one) under a protocol, or the error text instead."""
    if protocol is not None:
        overrides = [*overrides, f"bench={protocol}"]
        composed = _composed(overrides)
        if isinstance(composed, str):
            return [composed] * max(1, len(variants))
        plain = composed
    return [_checked(each) for each in _each(variants, plain, overrides)] if variants else [_checked(plain)]


def _each(variants: list[Variant], plain: dict[str, Any], overrides: list[str]) -> Iterator[dict[str, Any] | str]:
    """Yield the configuration with each variant's choices substituted.

    Hydra takes 0.2 s to compose a configuration. It is only needed where the groups of a variant do not come from the
    project's files alone: with an override, an experiment or a file of the user's.
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
    """Return the configuration that Hydra composes from the overrides, or its error text."""
    try:
        return _plain(hydra.compose("config", overrides))
    except HydraException as error:
        return str(error).strip()


def _checked(plain: dict[str, Any] | str) -> Settings | str:
    """Return the validated settings, or the error text."""
    if isinstance(plain, str):
        return plain
    try:
        return validate(plain)
    except ConfigError as error:
        return error.problem


def _plain(config: DictConfig) -> dict[str, Any]:
    return dict(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
