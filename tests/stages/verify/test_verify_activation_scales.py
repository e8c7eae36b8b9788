"""Calibrated scales in a checkpoint, held against the calibration they were made from."""

import pytest

from pipeline.config import Stage
from pipeline.stages.verify import activation_scales
from pipeline.stages.verify.activation_scales import check
from pipeline.stages.verify.outcomes import Failed, NotCompared


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


@pytest.mark.parametrize(("factor", "passes"), [(1.007, True), (0.993, True), (1.01, False), (0.99, False)])
def test_a_scale_may_be_off_by_what_bf16_rounds(
    factor: float, passes: bool, made, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made("quant=fp8_static")
    wanted = activation_scales._wanted(job, job.artifact(Stage.CALIBRATE).folder, shown=set())
    stored = {name: scale.value for name, scale in wanted.items()}
    name = min(stored)
    monkeypatch.setattr(activation_scales, "_stored", lambda folder: {**stored, name: factor * stored[name]})
    if passes:
        assert check(job)
    else:
        with pytest.raises(Failed, match=f"{name} is .* by the calibration"):
            check(job)
