"""A file of a group of `conf/` gives what differs from `conf/config.yaml`, which alone describes settings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from pipeline.config import Settings
from pipeline.config.bench import LadderSettings
from pipeline.config.eval import DivergenceSettings
from pipeline.config.presets import CONF

# Data, and parts of a group that are given whole.
OTHER = ("reference", "dataset")
FILES = sorted(
    path.relative_to(CONF)
    for path in CONF.rglob("*.yaml")
    if path.name != "config.yaml" and path.parent.name not in OTHER
)
# What is null unless a file asks for it.
OPTIONAL = ("bench.ladder", "eval.divergence")


def said(path: Path) -> dict[str, Any]:
    return {key: value for key, value in yaml.safe_load((CONF / path).read_text()).items() if key != "defaults"}


def leaves(values: Any, under: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, f"{under}.{key}" if under else key)
    else:
        yield under, values


def before(path: Path) -> dict[str, Any]:
    """The settings that the file changes: those of `config.yaml`, and of the files of its group that it begins with."""
    given = OmegaConf.create(yaml.safe_load((CONF / "config.yaml").read_text()))
    for each in yaml.safe_load((CONF / path).read_text()).get("defaults", []):
        if isinstance(each, str) and each != "_self_":
            parent = path.with_name(f"{each}.yaml")
            given = OmegaConf.merge(given, before(parent), {path.parent.name: said(parent)})
    return dict(OmegaConf.to_container(given))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_repeats_no_default(path: Path) -> None:
    group, own = path.parent.name, said(path)
    # A model and an experiment speak of all groups.
    own = {group: own} if group in Settings.model_fields and group != "model" else own
    default = dict(leaves(before(path)))
    repeated = [
        name
        for name, value in leaves(own)
        if not name.endswith(".name") and not name.startswith(OPTIONAL) and name in default and default[name] == value
    ]
    assert not repeated, f"conf/{path} repeats {', '.join(repeated)}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_comment_has_a_line_of_its_own(path: Path) -> None:
    """Behind a value a comment would describe the setting, as `config.yaml` does."""
    behind = [line for line in (CONF / path).read_text().splitlines() if re.search(r"\S\s+# ", line)]
    assert not behind, f"conf/{path}"


@pytest.mark.parametrize(
    ("override", "section", "kind"),
    [
        *((f"bench={name}", "bench.ladder", LadderSettings) for name in ("ladder", "ladder_quick")),
        *((f"eval={name}", "eval.divergence", DivergenceSettings) for name in ("demo", "study", "quick", "chat")),
    ],
)
def test_what_is_null_by_default_is_given_whole(override: str, section: str, kind: Any, compose) -> None:
    """So that each of its settings can be overridden."""
    group, _, name = section.partition(".")
    assert set(compose(override)[group][name]) == set(kind.model_fields)
