"""Ways out of the sandbox, tried in every kind of isolation that this machine has."""

from __future__ import annotations

from collections.abc import Callable

from tools.reliability import sandbox_attempts
from tools.reliability.command import Results


def try_ways_out(results: Results, is_over: Callable[[], bool]) -> None:
    """Make the attempts of each group in each way of isolation, unless they have a result."""
    known = sandbox_attempts.attempts()
    groups = dict.fromkeys(each.group for each in known)
    for way in sandbox_attempts.ways():
        for group in groups:
            case = f"{way}: {group}"
            if case in results or is_over():
                continue
            found = sandbox_attempts.run(way, [each for each in known if each.group == group])
            if isinstance(found, str):
                results.add(case, kind="sandbox", way=str(way), lost=[], skipped=found)
                continue
            results.add(
                case,
                kind="sandbox",
                way=str(way),
                lost=[f"{each.attempt}: {each.got_out or each.detail}" for each in found if not each.passed],
                attempts=len(found),
                admitted=sum(each.admitted for each in found),
            )
