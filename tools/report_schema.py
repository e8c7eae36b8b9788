"""Write `docs/report.schema.json`, the JSON schema of `report.json`, from the classes that write it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.stages.report.document import SCHEMA_VERSION, Report

PATH = Path(__file__).parents[1] / "docs" / "report.schema.json"


def schema() -> str:
    """Return the schema as text."""
    found = Report.model_json_schema(mode="serialization")
    found["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:quantization-pipeline:report:{SCHEMA_VERSION}",
    }
    return json.dumps({**head, **found}, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the file, and print whether it changed."""
    before = PATH.read_text(encoding="utf-8") if PATH.is_file() else ""
    after = schema()
    PATH.write_text(after, encoding="utf-8")
    sys.stdout.write(f"docs/{PATH.name}: {'unchanged' if after == before else 'written'}\n")


if __name__ == "__main__":
    main()
