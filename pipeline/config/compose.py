"""The settings of each variant under each protocol, from the configuration that Hydra composed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from pipeline.config import PACKAGE, RESOURCES, Command, Settings, Stage, Variant, choice, existing, validate
from pipeline.config.messages import of_hydra
from pipeline.config.names import choices, spelled
from pipeline.config.quant import lacks
from pipeline.config.settings import SERVING
from pipeline.errors import ConfigError
from pipeline.formats.schemes import SCHEMES

OmegaConf.register_new_resolver("package", lambda path: str(PACKAGE / path), replace=True)
OmegaConf.register_new_resolver("resource", lambda path: str(RESOURCES / path), replace=True)
# The groups whose choices define a variant.
GROUPS = ("quant", "kv_cache")
# Stages and commands whose results are compared with BF16's.
COMPARED = {Stage.BENCH, Stage.EVAL, Command.REPORT, Command.GATE}
BF16 = Variant(quant="bf16")
# An override of a setting inside them: `quant.group_size=64`, `+kv_cache.x=1`.
WITHIN = re.compile(rf"[+~]*({'|'.join(GROUPS)})[.@]")


def compose_variants(config: DictConfig, overrides: list[str]) -> list[Settings]:
    """Return the settings of each requested variant under each protocol, all validated before any runs.

    BF16 is added where results are compared and it is not among them.

    Raises:
        ConfigError: with the errors of all variants.
    """
    plain = _plain(config)
    serving = {name: plain["serve"][name] for name in SERVING}
    # Format and kernel are validated per variant below; only what all share is here.
    shared = plain
    if plain["variants"] is not None:
        plain["serve"]["kernel"] = "auto"
        shared = plain | {"quant": choice("quant", "bf16")}
    first = validate(shared)
    # None stands for the variant that the groups are configured for.
    rows: list[Variant | None] = [_spelled(Variant.parse(text, **serving)) for text in first.variants or ()] or [None]
    if _lacks_baseline(first, rows):
        # No format of its own, so no kernel.
        rows.insert(0, BF16.model_copy(update=serving | {"kernel": "auto"}))
    if rows == [None] and first.protocols is None:
        return [first]
    under = {name: _under(rows, plain, overrides, name) for name in first.protocols or (None,)}
    found = []
    problems: dict[tuple[str | None, str], list[str]] = {}
    for index, variant in enumerate(rows):
        for protocol, outcomes in under.items():
            outcome = outcomes[index]
            if isinstance(outcome, Settings):
                found.append(outcome)
                continue
            names = problems.setdefault((protocol, outcome), [])
            names += [str(variant)] if variant else []
    if problems:
        raise ConfigError(_said(problems, len(rows)))
    return found


def _said(problems: Mapping[tuple[str | None, str], Sequence[str]], variants: int) -> str:
    """Return a line for each problem under a protocol, with the variants that have it, if not all of several do."""
    lines = []
    for (protocol, problem), names in problems.items():
        shown = [] if not names or len(names) == variants > 1 else [f"variants: {', '.join(names)}"]
        shown += [f"protocols: {protocol}"] if protocol else []
        lines.append(": ".join((*([" ".join(shown)] if shown else []), problem)))
    return "\n".join(lines)


def _spelled(variant: Variant) -> Variant:
    """Return a variant with the names of its formats as their files have them."""
    name = spelled(variant.format, choices("quant"))
    cache = spelled(variant.kv_cache, choices("kv_cache"))
    return variant.model_copy(update={"quant": name + variant.quant[len(variant.format) :], "kv_cache": cache})


def _lacks_baseline(first: Settings, rows: Sequence[Variant | None]) -> bool:
    """Return whether results are compared, and BF16's are not among them."""
    is_compared = bool(COMPARED & set(first.stage)) and first.add_bf16 and first.serve.url is None
    return is_compared and not any(first.is_baseline if row is None else row.checkpoint == BF16 for row in rows)


def _under(
    rows: Sequence[Variant | None], plain: dict[str, Any], overrides: list[str], protocol: str | None
) -> list[Settings | str]:
    """Return the settings of each variant under a protocol, or the error text instead."""
    if protocol is not None:
        overrides = [*(each for each in overrides if not each.startswith("bench=")), f"bench={protocol}"]
        composed = _composed(overrides)
        if isinstance(composed, str):
            return [composed] * len(rows)
        plain = composed
    own = ("quant=", "kv_cache=", *(f"serve.{name}=" for name in SERVING))
    shared = [each for each in overrides if not each.startswith(own)]
    each_variant = _each([row for row in rows if row is not None], plain, shared)
    return [_checked(plain if row is None else next(each_variant)) for row in rows]


def _each(variants: list[Variant], plain: dict[str, Any], overrides: list[str]) -> Iterator[dict[str, Any] | str]:
    """Yield the configuration with each variant's choices substituted.

    Hydra takes 0.2 s to compose a configuration. It is only needed where the groups of a variant do not come from the
    project's files alone: with an override, an experiment, a file of the user's or settings of the variant's own.
    """
    files_decide = not any(WITHIN.match(override) for override in overrides) and all(
        plain[group] == choice(group, plain[group]["name"]) for group in GROUPS
    )
    for variant in variants:
        if existing.is_existing(variant.quant):
            unchanged = variant.model_copy(update={"quant": "bf16"})
            yield _theirs(variant, next(_each([unchanged], plain, overrides)))
            continue
        quant, kv_cache = choice("quant", variant.quant), choice("kv_cache", variant.kv_cache)
        if files_decide and quant and kv_cache:
            yield plain | {
                "quant": quant,
                "kv_cache": kv_cache,
                "serve": plain["serve"] | variant.serving,
            }
        else:
            served = (f"serve.{name}={value}" for name, value in variant.serving.items())
            chosen = (f"quant={variant.format}", f"kv_cache={variant.kv_cache}", *served)
            yield _named(variant, _composed([*_applicable(overrides, variant), *chosen, *_own(variant)]))


def _theirs(variant: Variant, unchanged: dict[str, Any] | str) -> dict[str, Any] | str:
    """Put a checkpoint that others quantized in the place of the unchanged one."""
    quant = existing.settings_of(variant.quant)
    if isinstance(quant, str) or isinstance(unchanged, str):
        return quant if isinstance(quant, str) else unchanged
    return unchanged | {"quant": quant}


def _own(variant: Variant) -> list[str]:
    """Return the overrides of a variant's own settings."""
    return [f"quant.{option}" for option in variant.options]


def _named(variant: Variant, composed: dict[str, Any] | str) -> dict[str, Any] | str:
    """Name a format after the variant, if that has settings of its own."""
    if isinstance(composed, str) or not variant.options:
        return composed
    quant = composed["quant"]
    return composed | {
        "quant": quant | {"name": variant.quant, "title": f"{quant['title']}, {', '.join(variant.options)}"}
    }


def _applicable(overrides: Sequence[str], variant: Variant) -> list[str]:
    """Return the overrides without settings that the variant's format does not have."""
    plain = choice("quant", "bf16" if existing.is_existing(variant.quant) else variant.format)
    if plain is None or not plain.get("scheme"):
        return [override for override in overrides if plain is None or not override.lstrip("+").startswith("quant.")]
    scheme = SCHEMES.get(str(plain["scheme"]))
    if scheme is None:
        return list(overrides)
    # Algorithms are those of the engine that is asked for.
    asked = [override.partition("=")[2] for override in overrides if override.lstrip("+").startswith("quant.engine=")]
    engine = next((name for name in reversed(asked) if name in scheme.engines), str(plain["engine"]))
    return [override for override in overrides if not _lacks(override, str(plain["scheme"]), engine)]


def _lacks(override: str, scheme: str, engine: str) -> str:
    """Return why a scheme does not have the setting, or not the value, of an override; empty if it does."""
    name, _, value = override.lstrip("+").partition("=")
    return lacks(name.removeprefix("quant."), value, scheme, engine) if name.startswith("quant.") else ""


def unapplied(overrides: Sequence[str], variants: Sequence[Settings]) -> list[str]:
    """Return a sentence for each setting of the formats that was given for all variants and does not apply to some."""
    applied = {str(each.variant): _applicable(overrides, each.variant) for each in variants}
    found = []
    for override in overrides:
        if lacking := [name for name, own in applied.items() if override not in own]:
            found.append(f"{override.lstrip('+')} does not apply to {', '.join(lacking)}.")
    return found


def _composed(overrides: list[str]) -> dict[str, Any] | str:
    """Return the configuration that Hydra composes from the overrides, or its error text."""
    try:
        return _plain(hydra.compose("config", overrides))
    except HydraException as error:
        return str(of_hydra(error, Settings))


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
