"""The first screen: what to do, its command, and one table with words and intervals that are seen without a pointer."""

import re

import pytest
from support.first_screens import CASES, make
from support.synthetic_results import STUDY, Run

from pipeline.compare.words import MEANINGS
from pipeline.stages.report.blocks import CellTable, Copy, Prose, Table, walk
from pipeline.stages.report.build import build
from pipeline.stages.report.sections import SECTIONS, verdict
from pipeline.stages.report.sections.verdict import constraint_table

TITLES = {
    "winner": r"Deploy INT8 dynamic\.",
    "noise": r"No speed answer: BF16 itself varied by .*",
    "loss": r"Keep BF16\.",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The three cases, each with its report as data and as a page."""
    found = {}
    for case in CASES:
        run, page = make(case, tmp_path_factory.mktemp(case))
        found[case] = (run, build(run.jobs, {}), page.read_text())
    return found


def words(page):
    return re.sub(r"<[^>]+>", " ", page).split()


@pytest.mark.parametrize("case", CASES)
def test_the_answer_comes_first_and_is_short(made, case):
    _, found, page = made[case]
    assert re.fullmatch(TITLES[case], found.decision.title)
    body = page[page.index("<body>") : page.index("<table")]
    body = re.sub(r"<nav.*?</nav>|<code>.*?</code>|<button.*?</button>", "", body, flags=re.DOTALL)
    assert found.decision.title in re.sub(r"<wbr>", "", body)
    assert len(words(body)) <= 80


@pytest.mark.parametrize("case", CASES)
def test_every_format_has_its_five_figures_with_words_and_intervals(made, case):
    _, found, page = made[case]
    (table,) = (block for block in verdict.section(found).blocks if isinstance(block, CellTable))
    titles = [column.title for column in table.columns]
    assert titles == ["Throughput", "Time per token", "Checkpoint", "Worst task", "KL from BF16"]
    assert [row.label for row in table.rows] == [row.label for row in found.comparison.rows]
    for row in table.rows[1:]:
        by_title = dict(zip(titles, row.cells, strict=True))
        assert {by_title[title].word for title in ("Throughput", "Worst task")} <= set(MEANINGS)
        assert all(cell.ends for cell in row.cells)
    shown = re.sub(r' title="[^"]*"', "", page[page.index("<table") : page.index("</table>")])
    for row in table.rows[1:]:
        assert all(cell.ends in shown and cell.word in shown for cell in row.cells)


def test_the_winner_has_its_command_and_the_others_say_what_to_run(made):
    run, winner, page = made["winner"]
    commands = {block.label: block.text for block in walk(verdict.section(winner).blocks) if isinstance(block, Copy)}
    checkpoint = run.job("int8_dynamic").checkpoint.resolve()
    assert commands == {"Serve": f"vllm serve {checkpoint}"}
    assert page.index(f"vllm serve {checkpoint}") < page.index("<table")
    _, found, _ = made["noise"]
    commands = {block.label: block.text for block in walk(verdict.section(found).blocks) if isinstance(block, Copy)}
    assert list(commands) == ["Next"] and "stage=[bench,report]" in commands["Next"]
    assert "bench.blocks=2" in commands["Next"] and "variants=[bf16,int8_dynamic,w4a16]" in commands["Next"]


def test_what_is_deployed_follows_bf16_however_many_there_are(tmp_path, capsys):
    run = Run(tmp_path, {name: STUDY[name] for name in ("w4a16", "bf16", "gptq", "int8_dynamic")})
    (table,) = (block for block in verdict.section(build(run.jobs, {})).blocks if isinstance(block, CellTable))
    assert [row.label for row in table.rows] == ["BF16", "INT8 dynamic", "W4A16", "GPTQ"]


def test_remarks_say_what_to_do_with_each_format(made):
    (table,) = (block for block in verdict.section(made["winner"][1]).blocks if isinstance(block, CellTable))
    remarks = {row.label: row.remark for row in table.rows}
    assert remarks["INT8 dynamic"] == "deploy" and remarks["BF16"] == "baseline"
    (table,) = (block for block in verdict.section(made["loss"][1]).blocks if isinstance(block, CellTable))
    assert {row.label: row.remark for row in table.rows}["BF16"] == "keep"
    assert {row.label: row.remark for row in table.rows}["INT8 dynamic"] == "excluded"


def test_the_terminal_has_the_answer_its_table_and_the_path_only(made):
    run, _, _ = made["winner"]
    shown = run.shown.getvalue()
    assert shown.index("Deploy INT8 dynamic.") < shown.index("Throughput") < shown.index("Report:")
    assert "Holm" not in shown and "Dunnett" not in shown and len(shown.splitlines()) < 50


def test_methods_come_after_the_results(made):
    experts = [section.is_expert for make in SECTIONS if (section := make(made["winner"][1])) is not None]
    assert experts == sorted(experts) and True in experts


def test_constraints_are_a_word_a_cell_under_their_limits(tmp_path, capsys):
    run = Run(tmp_path, CASES["winner"])
    run.report = {"constraints": {"memory_gib": 24, "ttft_p99_ms": 500, "max_loss_points": {"MMLU": 5}}}
    found = build(run.jobs, {})
    table = constraint_table(found.recommendation)
    assert {"memory ≤ 24 GiB", "p99 TTFT ≤ 500 ms", "MMLU loss ≤ 5"} <= set(table.head)
    assert all(len(cell.split()) <= 2 for row in table.rows for cell in row[1:])
    reasons = [block for block in walk(verdict.section(found).blocks) if isinstance(block, Table)][-1]
    assert len(reasons.rows) == sum(len(each.checks) for each in found.recommendation.candidates)


def test_latencies_of_another_machine_are_open_under_a_constraint_on_hardware(tmp_path, capsys):
    run = Run(tmp_path, CASES["winner"])
    run.report = {"constraints": {"hardware": "L40S", "ttft_p99_ms": 5000}}
    found = build(run.jobs, {})
    checks = [c for each in found.recommendation.candidates for c in each.checks if c.constraint == "ttft_p99_ms"]
    assert {check.status for check in checks} == {"open"}
    assert all(
        "is open: measured on Imaginary CPU 9000, 8 cores, not on L40S." in check.statement.text for check in checks
    )
    (text,) = [b.text for b in verdict.section(found).blocks if isinstance(b, Prose) and b.style == "reason"]
    assert "Speeds were measured on Imaginary CPU 9000, 8 cores, not on L40S." in text
