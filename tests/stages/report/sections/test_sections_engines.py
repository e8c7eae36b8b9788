"""The table of engines in the page and in Markdown, and what it is made of."""

import pytest
from support.synthetic_results import STUDY, Run

from pipeline.config import Stage
from pipeline.stages.report import sections
from pipeline.stages.report.build import build
from pipeline.stages.report.collect.artifacts import sources
from pipeline.stages.report.collect.engines import engines
from pipeline.stages.report.renderers import html, markdown


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    kept = {name: STUDY[name] for name in ("bf16", "awq", "gptq")}
    return Run(tmp_path_factory.mktemp("engines"), kept)


def test_engines_of_one_format_and_data_are_compared(run: Run) -> None:
    found = sources(run.jobs, {})
    first, second = (source for source in found if not source.is_baseline)
    for source, error in ((first, 0.1), (second, 0.12)):
        source.quant |= {"scheme": "W4A16", "algorithm": "gptq", "group_size": 128}
        source.manifests[Stage.VERIFY].results["weight_errors"] = [{"module": "a", "error": error, "allowed": 1}]
        source.manifests[Stage.QUANTIZE].payload["calibrate"] = "the same"
    assert engines(found) == ()
    second.quant |= {"engine": "gptqmodel"}
    (table,) = engines(found)
    assert table.scheme == "W4A16, groups of 128"
    assert [row.ratio for row in table.rows] == [1, pytest.approx(1.2)]
    report = build(run.jobs, {}).model_copy(update={"engines": (table,)})
    page = sections.page(report)
    for text in (markdown.render(page), html.render(page)):
        assert "Agreement of engines" in text
        assert "1.200" in text
