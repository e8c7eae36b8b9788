"""The card of a calibration set holds names of others as text."""

import pytest
from support.report_page import PAYLOADS, obeyed
from support.synthetic_calibration import summary

from pipeline.results.calibration import SetCard
from pipeline.stages.calibrate.card import to_markdown


@pytest.mark.parametrize("text", PAYLOADS)
def test_names_and_reasons_stay_in_their_cells(text: str) -> None:
    content = summary()["card"]
    content["name"] = text
    content["sources"][0] |= {"source": text, "identity": text}
    content["overlap"][0] |= {"evaluation": text, "task": text, "reason": text}
    plain = to_markdown(SetCard.model_validate(summary()["card"]))
    shown = to_markdown(SetCard.model_validate(content))
    assert not obeyed(shown)
    assert "<" not in shown
    cells = [line.replace("\\|", "").count("|") for line in shown.splitlines()]
    assert cells == [line.count("|") for line in plain.splitlines()]
