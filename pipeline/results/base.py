"""Base classes of results: immutable models, a missing value with its reason, and the one reader of manifests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipeline.artifacts.manifest import Manifest
from pipeline.results.text import clean

# Untrusted text of a model, a file or another release, cleaned for a table.
Name = Annotated[str, AfterValidator(lambda value: clean(value, 60))]
# The UUIDs of sixteen GPUs joined by commas, or a hash.
DeviceId = Annotated[str, AfterValidator(lambda value: clean(value, 700))]
Sentence = Annotated[str, AfterValidator(lambda value: clean(value, 300))]


class Frozen(BaseModel):
    """Immutable model."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Missing(Frozen):
    """Placeholder for an unavailable value: `n/a`, with the reason."""

    reason: str


class Result(Frozen):
    """The results in a stage's manifest: the stage writes it, `read` gives the same class back.

    A field that a stage leaves out is not written, and read as its default. The default of
    `schema_version` is the version that is written and read: it changes when a field is renamed, removed or means
    something else; a new field with a default leaves it as it is.
    """

    # Name of its file, as the subject of an error message.
    SOURCE: ClassVar[str]

    schema_version: int = 1

    def model_post_init(self, _: Any) -> None:
        """Mark the version as set, so that it is always written."""
        self.__pydantic_fields_set__.add("schema_version")


R = TypeVar("R", bound=Result)


def other_version(cls: type[Result], content: object, unversioned: int | None = None) -> str:
    """Return why this release cannot read the version of `content`, to follow its name; empty if it can.

    Args:
        cls: class to read.
        content: content of the file.
        unversioned: version of content without a version field.
    """
    version = content.get("schema_version", unversioned) if isinstance(content, Mapping) else None
    known = cls.model_fields["schema_version"].default
    if type(version) is int and version == known:
        return ""
    return f"has schema version {clean(version, 40)}, this release reads {known}"


def read(cls: type[R], manifest: Manifest) -> R | Missing:
    """Return the results of a manifest, or the reason why they cannot be read.

    Results without a version are version 1; unknown fields of later releases are ignored.
    """
    if reason := other_version(cls, manifest.results, unversioned=1):
        return Missing(reason=f"{cls.SOURCE} {reason}")
    try:
        return cls.model_validate(manifest.results, extra="ignore")
    except ValidationError:
        return Missing(reason=f"{cls.SOURCE} cannot be read")
