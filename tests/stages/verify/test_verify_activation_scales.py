"""Calibrated scales in a checkpoint, held against the calibration they were made from."""

import pytest

from pipeline.stages.verify.activation_scales import check
from pipeline.stages.verify.outcomes import NotCompared


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (("quant=fp8_static",), 28),
        (("quant=int8_static",), 28),
        (("quant=nvfp4",), 28),
        (("quant=bf16", "kv_cache=fp8_e4m3"), 8),
        (("quant=fp8_static", "kv_cache=fp8_e4m3", "calibration.observer=percentile"), 36),
    ],
)
def test_what_was_made_is_the_calibrations(given: tuple[str, ...], count: int, made) -> None:
    assert check(made(*given)) == f"{count} scales of activations, keys and values are the calibration's"


@pytest.mark.parametrize("quant", ["bf16", "w4a16", "gptq", "fp8_dynamic", "mxfp4"])
def test_a_format_without_calibrated_scales_is_not_compared(quant: str, made) -> None:
    with pytest.raises(NotCompared, match="no calibrated scale"):
        check(made(f"quant={quant}"))
