"""The readers on many more documents than `make test` gives them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tools.reliability.command import ROOT, Results

EXAMPLES = 1000
TESTS = "tests/test_fuzzed_readers.py"
PASSING = re.compile(r"(\d+) passing")


def fuzz(results: Results) -> None:
    """Run the tests of the readers, unless they have a result."""
    if "readers" in results:
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--hypothesis-show-statistics", TESTS]
    answer = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PIPELINE_FUZZ_EXAMPLES": str(EXAMPLES)},
    )
    failed = [line for line in answer.stdout.splitlines() if line.startswith("FAILED")]
    lost = failed or ([f"exit code {answer.returncode}"] if answer.returncode else [])
    results.add("readers", kind="fuzz", lost=lost, documents=sum(map(int, PASSING.findall(answer.stdout))))
