"""Constraints on a deployment are checked against what is evaluated and what there is."""

import pytest

from pipeline.config import validate
from pipeline.errors import ConfigError


def test_constraints_name_tasks_and_gpus_that_there_are(compose, settings) -> None:
    limits = settings("report.constraints.max_loss_points={MMLU: 1, GSM8K: 2.5}").report.constraints.max_loss_points
    assert limits == {"MMLU": 1.0, "GSM8K": 2.5}
    with pytest.raises(ConfigError, match=r"max_loss_points=ARC: eval=demo has C-Eval, MMLU"):
        validate(compose("report.constraints.max_loss_points={ARC: 1}"))
    with pytest.raises(ConfigError, match=r"report.constraints.hardware: H100 is several GPUs: "):
        validate(compose("report.constraints.hardware=H100"))
    with pytest.raises(ConfigError, match=r"report.constraints.ttft_p99_ms"):
        validate(compose("report.constraints.ttft_p99_ms=-1"))
