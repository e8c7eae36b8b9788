"""The published schema of report.json: current, and true of a report."""

import json

import pytest
from support.synthetic_results import STUDY, Run

from pipeline.stages import report
from pipeline.stages.report.document import SCHEMA_VERSION
from tools.report_schema import PATH, schema


def test_the_published_schema_is_that_of_the_code():
    assert PATH.read_text(encoding="utf-8") == schema(), "run `make docs`"


def test_a_report_is_as_the_schema_says(tmp_path, capsys):
    jsonschema = pytest.importorskip("jsonschema")
    run = Run(tmp_path, {name: STUDY[name] for name in ("bf16", "fp8_static", "gptq")}, formats=("json",))
    report.make(run.jobs, {})
    content = json.loads((run.outputs / "tiny" / "report" / "report.json").read_text())
    jsonschema.Draft202012Validator(json.loads(schema())).validate(content)
    assert content["schema_version"] == SCHEMA_VERSION
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json.loads(schema())).validate({**content, "decision": {"kind": "sell"}})
