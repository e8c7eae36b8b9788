"""The divergences that are known for a format are those of their sources."""

import json

import pytest

from pipeline.compare.decide.known_divergences import KNOWN, SMOLLM2
from tools.stored_results import FOLDER

STORED = json.loads((FOLDER / "smollm2_h200" / "report.json").read_text(encoding="utf-8"))["comparison"]["rows"]
OURS = [(scheme, each) for scheme, known in KNOWN.items() for each in known if each.of.startswith(SMOLLM2)]


@pytest.mark.parametrize(("scheme", "known"), OURS, ids=[scheme for scheme, _ in OURS])
def test_a_divergence_of_ours_is_that_of_the_stored_report(scheme, known) -> None:
    seen = [row["divergence"]["kl"]["value"] for row in STORED if row["scheme"] == scheme]
    assert any(known.kl == pytest.approx(value, abs=1e-4 if value < 0.1 else 1e-3) for value in seen)
