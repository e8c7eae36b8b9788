"""`docs/reliability.md`, from the results alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from tools.reliability.command import ROOT, SETTINGS, Results
from tools.reliability.kills import counted

PAGE = ROOT / "docs" / "reliability.md"
HEAD = """# Reliability

Written by `make reliability` from its own results; a figure that is not there has not been tried. What is tried is the
command itself on the demo model, with small settings:

    {settings}

"""
KINDS = {
    "kill": (
        "Killed runs",
        "A run is killed at a seeded moment within a step, or right before or after it gives an artifact its name; the "
        "next one goes on from what it left, and is killed at its next moment. After each kill every artifact that is "
        "visible is whole by its SHA-256, none is marked as failed, no process is left 15 s later, and a run that was "
        "sent SIGTERM or SIGINT has ended within 10 s with exit code 143 or 130.",
    ),
    "round": (
        "Runs that end after all kills",
        "The last rerun of a round ends by itself with exit code 0. Its checkpoints are compared byte by byte with "
        "those of an undisturbed run, and no draft may be left in the outputs.",
    ),
    "disk": (
        "Full and read-only disks",
        "A file system of its own fills when a stage begins, or is read-only. The message names `outputs`, the reason "
        "and the free space; what was made before stays as it is; with space again, the rerun ends well.",
    ),
    "company": (
        "Runs that are not alone",
        "Two runs in one folder make each artifact once; the second says for which process it waits, and goes on "
        "itself if that one is killed. Beside a busy process a step of quantization takes at most 3 times as long.",
    ),
    "fuzz": (
        "Files that others wrote",
        "Configs, indexes, headers, tokenizers, conversations, task files, manifests, results, journals, reports and "
        "answers of a server, with values and bytes replaced: each is read, or refused in the project's own words, "
        "within bounds of memory.",
    ),
    "sandbox": (
        "Ways out of the sandbox",
        "Programs such as a model may write try to reach files, secrets, other processes, the network and more memory "
        "than they may have, or to pass without being right, under each kind of isolation and user. What forges its "
        "verdict from within the interpreter is admitted ([docs/evaluation.md](evaluation.md#programs)).",
    ),
}


def page(results: Results) -> str:
    """Return the document."""
    by_kind = defaultdict(list)
    for each in results.known.values():
        by_kind[str(each["kind"])].append(each)
    rows = [
        f"| {title} | {_tried(kind, by_kind[kind])} | {_number_lost(by_kind[kind])} |"
        for kind, (title, _) in KINDS.items()
        if by_kind[kind]
    ]
    table = "\n".join(["| what | tried | lost |", "|---|---:|---:|", *rows, ""])
    parts = [
        f"## {title}\n\n{text}\n\n{_details(kind, by_kind[kind], results)}"
        for kind, (title, text) in KINDS.items()
        if by_kind[kind]
    ]
    return "\n".join([HEAD.format(settings=" ".join(SETTINGS)) + table, *parts]).rstrip() + "\n"


def _tried(kind: str, cases: list[dict[str, object]]) -> str:
    if kind == "sandbox":
        return f"{_number_of(cases, 'attempts'):,} attempts"
    if kind == "fuzz":
        return f"{_number_of(cases, 'documents'):,} documents"
    return str(sum("skipped" not in each for each in cases))


def _number_lost(cases: Iterable[Mapping[str, object]]) -> int:
    return sum(len(_lost(each)) for each in cases)


def _lost(case: Mapping[str, object]) -> list[str]:
    lost = case["lost"]
    return [str(each) for each in lost] if isinstance(lost, list) else []


def _number(case: Mapping[str, object], name: str) -> int:
    value = case.get(name)
    return value if isinstance(value, int) else 0


def _details(kind: str, cases: list[dict[str, object]], results: Results) -> str:
    lines = []
    if kind == "kill":
        lines = [
            "| signal, sent to | runs that it ended |",
            "|---|---:|",
            *(f"| {name} | {number} |" for name, number in counted(results)),
            "",
        ]
        seconds = [each["seconds"] for each in cases if each["number"] != "SIGKILL"]
        ended = [each for each in seconds if isinstance(each, float)]
        if ended:
            lines += [f"The slowest end after SIGTERM or SIGINT took {max(ended):.1f} s.", ""]
    if kind == "round":
        lines = [f"{_number_of(cases, 'files')} files of checkpoints were compared.", ""]
    if kind == "sandbox":
        lines = [*_by_way(cases), ""]
    if kind in ("disk", "company"):
        lines = [f"* {each['case']}: {_outcome(each)}" for each in cases] + [""]
    found = [f"* {each['case']}: {reason.splitlines()[0][:200]}" for each in cases for reason in _lost(each)]
    return "\n".join([*lines, *(["Lost:", "", *found, ""] if found and kind not in ("disk", "company") else [])])


def _by_way(cases: Iterable[Mapping[str, object]]) -> Iterable[str]:
    """Yield a table of the attempts in each way of isolation."""
    by_way = defaultdict(list)
    for each in cases:
        by_way[str(each["way"])].append(each)
    yield from ("| who, isolation | attempts | got out | admitted |", "|---|---:|---:|---:|")
    for way, own in by_way.items():
        tried = [each for each in own if "skipped" not in each]
        if not tried:
            yield f"| {way} | not tried: {own[0]['skipped']} | | |"
            continue
        numbers = (_number_of(tried, "attempts"), _number_lost(tried), _number_of(tried, "admitted"))
        yield f"| {way} | {' | '.join(map(str, numbers))} |"


def _number_of(cases: Iterable[Mapping[str, object]], name: str) -> int:
    return sum(_number(each, name) for each in cases)


def _outcome(case: Mapping[str, object]) -> str:
    if "skipped" in case:
        return f"not tried, {case['skipped']}"
    figures = [f"{name} {value}" for name, value in case.items() if name not in ("case", "kind", "lost")]
    return "; ".join([*("lost: " + each for each in _lost(case)), *figures]) or "nothing lost"
