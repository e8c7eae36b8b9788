"""Engines, schemes and algorithms fit together."""

import pytest


@pytest.mark.parametrize("engine", ["llmcompressor", "autoawq", "gptqmodel", "autoround"])
def test_one_override_chooses_the_engine_of_awq(engine: str, settings) -> None:
    quant = settings("quant=awq", f"quant.engine={engine}").quant
    assert (quant.engine, quant.scheme) == (engine, "W4A16_ASYM")
    assert quant.algorithm == ("signround" if engine == "autoround" else "awq")
