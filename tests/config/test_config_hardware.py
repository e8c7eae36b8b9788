"""The catalogue decides which GPUs there are."""

import pytest

from pipeline.config import validate
from pipeline.errors import ConfigError


def test_a_gpu_has_one_name_however_it_is_written_and_others_are_refused(compose, settings) -> None:
    assert settings("report.what_if=[h100_sxm, L40S]").report.what_if == ("H100 SXM", "L40S")
    assert settings("hardware.gpu=h100_sxm").hardware.gpu == "H100 SXM"
    with pytest.raises(ConfigError, match=r"report.what_if: H100 is several GPUs: .*h100_sxm"):
        validate(compose("report.what_if=[H100]"))
    with pytest.raises(ConfigError, match=r"report.what_if: H1000 is unknown .*known are t4, "):
        validate(compose("report.what_if=[H1000]"))
