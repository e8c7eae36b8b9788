"""Names of settings and choices: those that there are, and those nearest to a mistyped one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config.presets import CONF

# A folder of conf/ that holds data.
REFERENCE = "reference"
# Similarity from which on a name may be a slip of another one.
ALIKE = 0.6


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the settings class of a field: plain, optional, or as values of a dict; None for others."""
    return next((kind for kind in types_of(field.annotation) if isinstance(kind, type) and is_section(kind)), None)


def is_section(kind: type) -> bool:
    """Return whether a type is a group of settings."""
    return issubclass(kind, BaseModel)


def types_of(annotation: Any) -> Iterator[Any]:
    """Yield a type and the types that it is made of; a Literal's are values, and are left out."""
    yield annotation
    for part in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from types_of(part)


def is_mapping(field: FieldInfo) -> bool:
    """Return whether a field has values by names of the user's."""
    return any(get_origin(kind) is dict for kind in types_of(field.annotation))


def fields_of(group: type[BaseModel], under: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting of a group by its dotted name; `*` stands for the names of a mapping."""
    for name, field in group.model_fields.items():
        dotted = f"{under}{name}"
        yield dotted, field
        if section := section_of(field):
            yield from fields_of(section, f"{dotted}.*." if is_mapping(field) else f"{dotted}.")


def field_at(group: type[BaseModel], place: Sequence[str | int]) -> tuple[str, FieldInfo | None]:
    """Return the setting that a path of names leads to, as far as it is one, with its dotted name."""
    names: list[str] = []
    field: FieldInfo | None = None
    kind: type[BaseModel] | None = group
    for part in place:
        if kind is None:
            # The rest is an element of a list, or one type of several.
            break
        if isinstance(part, int):
            continue
        names.append(str(part))
        if part in kind.model_fields:
            field = kind.model_fields[str(part)]
            kind = section_of(field)
        elif field is None or not is_mapping(field):
            return ".".join(names), None
    return ".".join(names), field


def groups() -> tuple[str, ...]:
    """Return the names of the groups of `conf/`, each a folder of choices."""
    return tuple(sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != REFERENCE))


def choices(group: str, folders: Iterable[Path] = ()) -> tuple[str, ...]:
    """Return the choices of a group in `conf/`, and in further folders that are laid out like it."""
    found = (path for folder in (CONF, *folders) for path in (folder / group).glob("*.yaml"))
    return tuple(sorted({path.stem for path in found}))


def spelled(name: str, known: Collection[str]) -> str:
    """Return the known name that differs from `name` in case and dashes at most; `name` itself without one."""
    if name in known:
        return name
    return next((each for each in known if _plain(each) == _plain(name)), name)


def nearest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return the names that `name` may be a slip of, the likeliest first."""
    by_plain = {_plain(each): each for each in known}
    plain = _plain(name)
    close = difflib.get_close_matches(plain, by_plain, limit, ALIKE)
    longer = sorted((each for each in by_plain if len(plain) > 2 and plain in each), key=len)
    begun = [each for each in longer if each.startswith(plain)]
    return [by_plain[each] for each in dict.fromkeys((*begun, *close, *longer))][:limit]


def did_you_mean(names: Sequence[str]) -> str:
    """Return the question for the likeliest names; empty without one."""
    if not names:
        return ""
    return f"did you mean {', '.join(names[:-1])} or {names[-1]}?" if len(names) > 1 else f"did you mean {names[0]}?"


def unknown(name: str, known: Iterable[str]) -> str:
    """Return the sentence on an unknown name: with the likeliest, and all that are known."""
    known = list(known)
    meant = did_you_mean(nearest(name, known))
    return f"{name} is unknown{f' ({meant})' if meant else ''}; known are {', '.join(known)}"


def nearest_settings(name: str, root: type[BaseModel]) -> list[str]:
    """Return the settings that a dotted name may be a slip of: by its last part, else by the whole."""
    by_leaf: dict[str, list[str]] = {}
    for dotted, _ in fields_of(root):
        by_leaf.setdefault(dotted.rpartition(".")[2], []).append(dotted)
    group, _, leaf = name.rpartition(".")
    close = difflib.get_close_matches(_plain(leaf), by_leaf, 3, ALIKE)
    found = [dotted for each in close for dotted in by_leaf[each]]
    # A setting of the group that was named comes first, then those of the least depth.
    found.sort(key=lambda dotted: (dotted.rpartition(".")[0] != group, not dotted.startswith(f"{group}.")))
    return found[:2] or nearest(name, (dotted for each in by_leaf.values() for dotted in each), 2)


def _plain(name: str) -> str:
    return re.sub(r"[-. ]", "_", name.lower())
