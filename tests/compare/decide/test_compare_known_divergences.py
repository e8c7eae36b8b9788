"""The divergences that are known for a format are those of their sources."""

import json

import pytest
from support.compare_records import TASKS, divergence, record

from pipeline.compare import compare
from pipeline.compare.decide.known_divergences import KNOWN, SMOLLM2, divergence_text
from pipeline.results.base import Missing
from tools.stored_results import FOLDER

STORED = json.loads((FOLDER / "smollm2_h200" / "report.json").read_text(encoding="utf-8"))["comparison"]["rows"]
OURS = [(scheme, each) for scheme, known in KNOWN.items() for each in known if each.of.startswith(SMOLLM2)]


@pytest.mark.parametrize(("scheme", "known"), OURS, ids=[scheme for scheme, _ in OURS])
def test_a_divergence_of_ours_is_that_of_the_stored_report(scheme, known) -> None:
    seen = [row["divergence"]["kl"]["value"] for row in STORED if row["scheme"] == scheme]
    assert any(known.kl == pytest.approx(value, abs=1e-4 if value < 0.1 else 1e-3) for value in seen)


def row(scheme, kl):
    nothing = Missing(reason="not measured")
    (found,) = compare([record("a", speed=nothing)], TASKS).rows
    return found.model_copy(update={"divergence": divergence(kl) if kl else nothing, "scheme": scheme})


@pytest.mark.parametrize(
    ("scheme", "kl", "text"),
    [
        ("Q4_K_M", 0.041299, "A 41.3 (known for this format: 31.3 (Llama 3 8B, llama.cpp))"),
        (
            "W4A16",
            0.2,
            "A 200 (known for this format: 71.9 (Llama 3 8B, llama.cpp's Q4_0), 367 (SmolLM2-135M, docs/results))",
        ),
        ("NVFP4", 0.0001234, "A 0.123 (known for this format: n/a)"),
        ("W4A16", None, ""),
    ],
)
def test_a_divergence_is_said_beside_those_known_for_its_format(scheme, kl, text) -> None:
    assert divergence_text(row(scheme, kl)) == text
