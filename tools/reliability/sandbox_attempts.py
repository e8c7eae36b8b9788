"""Attempts on the sandbox, made in every way of isolation that this machine has.

    python -m tools.reliability.sandbox_attempts [name of a group or attempt]

The attempts are data (`sandbox_attempts.yaml`). As root, the ways of an ordinary user are tried too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

FOLDER = Path(__file__).parent
PACKAGE = FOLDER.parents[1] / "pipeline"
USER = 65534
CAP_SYS_ADMIN = 21
Kind = Literal["bubblewrap", "namespaces", "none"]


@dataclass(frozen=True)
class Attempt:
    """One program, and the outcome that is expected of it.

    Attributes:
        name: what it tries.
        group: part of the sandbox.
        program: its source, behind the worker's prelude unless `prelude` is false.
        expect: `contained`: it ends well, and nothing got out; `failed`: it does not pass; `possible`: it does, as
            the documentation admits.
        detail: pattern of the reason, if it is to fail.
        seconds: limit of CPU time.
        neighbours: whether good programs run beside it, which must pass.
        prelude: whether the worker's helpers come first.
        review: whether it comes from the review of the sandbox before it had a filter.
    """

    name: str
    group: str
    program: str
    expect: Literal["contained", "failed", "possible"] = "contained"
    detail: str = ""
    seconds: float = 2
    neighbours: bool = False
    prelude: bool = True
    review: bool = False


@dataclass(frozen=True)
class Way:
    """Kind of isolation, and who uses it."""

    kind: Kind
    who: Literal["root", "root without CAP_SYS_ADMIN", "user"]

    def __str__(self) -> str:
        """Return both in words."""
        return f"{self.who}, {self.kind}"


@dataclass(frozen=True)
class Result:
    """Outcome of an attempt.

    Attributes:
        attempt: its name.
        group: its group.
        isolation: the way of isolation.
        got_out: what got out, or how a verdict was forged; None: nothing.
        admitted: whether the documentation says that it does.
        passed: whether the outcome is the expected one.
        detail: how the program ended.
        seconds: time that it took.
    """

    attempt: str
    group: str
    isolation: str
    got_out: str | None
    admitted: bool
    passed: bool
    detail: str
    seconds: float


@cache
def attempts() -> tuple[Attempt, ...]:
    """Return all attempts."""
    rows = yaml.safe_load((FOLDER / "sandbox_attempts.yaml").read_text(encoding="utf-8"))
    return tuple(Attempt(**row) for row in rows)


def ways() -> tuple[Way, ...]:
    """Return the ways of isolation to try as the user that this is."""
    if os.geteuid() != 0:
        return Way("namespaces", "user"), Way("bubblewrap", "user")
    ordinary = Way("namespaces", "user"), Way("bubblewrap", "user")
    return Way("namespaces", "root"), Way("namespaces", "root without CAP_SYS_ADMIN"), *ordinary


def run(way: Way, chosen: Sequence[Attempt]) -> list[Result] | str:
    """Make attempts in one way of isolation.

    Returns:
        A result for each; or the reason why this way cannot be tried on this machine.
    """
    given = json.dumps({"kind": way.kind, "attempts": [asdict(each) for each in chosen]})
    with _place(way) as (python, folder):
        if python is None:
            return "no interpreter that another user can run"
        # A name that is not ASCII and has a blank, as a user's temporary folder may have.
        temporary = folder / "Entwürfe 答案"
        temporary.mkdir(mode=0o777)
        temporary.chmod(0o777)
        answer = subprocess.run(
            [python, str(folder / "sandbox_worker.py")],
            input=given,
            env={**os.environ, "PYTHONPATH": str(folder), "TMPDIR": str(temporary), "HOME": str(_home(way))},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
            preexec_fn=_as_user if way.who == "user" else _without_admin if "without" in way.who else None,
        )
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    if rows and "trouble" in rows[0]:
        return str(rows[0]["trouble"])
    if answer.returncode:
        raise RuntimeError(f"{way}: {answer.stderr}")
    return [_judge(attempt, way, **row) for attempt, row in zip(chosen, rows, strict=True)]


def _judge(
    attempt: Attempt, way: Way, *, verdict: bool, detail: str, hurt: str | None, seconds: float, name: str
) -> Result:
    """Return the result of what the worker saw."""
    assert name == attempt.name
    got_out = hurt
    if detail.startswith("GotOut"):
        got_out = detail
    elif verdict and attempt.expect != "contained":
        got_out = "a forged verdict"
    expected = {
        "contained": verdict,
        "failed": not verdict and re.search(attempt.detail, detail) is not None,
        "possible": verdict and hurt is None,
    }[attempt.expect]
    admitted = attempt.expect == "possible"
    passed = expected and (got_out is None or admitted)
    return Result(name, attempt.group, str(way), got_out, admitted, passed, detail, seconds)


def _home(way: Way) -> Path:
    return Path("/tmp") if way.who == "user" and os.geteuid() == 0 else Path.home()


def _as_user() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)


def _without_admin() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(24, CAP_SYS_ADMIN, 0, 0, 0)


@contextmanager
def _place(way: Way) -> Iterator[tuple[str | None, Path]]:
    """Yield an interpreter and a folder with the worker and the sandbox, which that user can read."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        package = folder / "pipeline" / "tasks" / "sandbox"
        package.mkdir(parents=True)
        shutil.copy(PACKAGE / "errors.py", folder / "pipeline")
        for file in (PACKAGE / "tasks" / "sandbox").glob("*.py"):
            shutil.copy(file, package)
        (folder / "pipeline" / "__init__.py").touch()
        (package.parent / "__init__.py").touch()
        shutil.copy(FOLDER / "sandbox_worker.py", folder)
        is_another = way.who == "user" and os.geteuid() == 0
        yield (_interpreter_for_all() if is_another else sys.executable), folder


@cache
def _interpreter_for_all() -> str | None:
    """Return an interpreter that any user can run and that is new enough for the worker."""
    found = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if found is None:
        return None
    version = subprocess.run(
        [found, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True, text=True
    )
    return found if version.stdout.strip() == "True" else None


def main() -> int:
    """Make all attempts, or those of a group or name; print what got out, and return the number of surprises."""
    wanted = set(sys.argv[1:])
    chosen = [each for each in attempts() if not wanted or {each.name, each.group} & wanted]
    surprises = 0
    for way in ways():
        results = run(way, chosen)
        if isinstance(results, str):
            print(f"{way}: not tried ({results})")
            continue
        bad = [each for each in results if not each.passed]
        surprises += len(bad)
        print(f"{way}: {len(results)} attempts, {len(bad)} with another outcome than expected", flush=True)
        for each in bad:
            print(f"  {each.attempt}: {each.got_out or 'nothing got out'} ({each.detail})")
    return surprises


if __name__ == "__main__":
    sys.exit(min(main(), 1))
