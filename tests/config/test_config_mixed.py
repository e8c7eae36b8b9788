"""Settings of a mix: candidates that can be mixed, one budget, and the format of each module once it is chosen."""

from __future__ import annotations

import re

import pytest
from support.settings import settings_of

from pipeline.config import ChosenSettings, validate
from pipeline.errors import ConfigError
from pipeline.formats.schemes import GPTQ, ROUND, SCHEMES


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["quant.bits=null"], "scheme=MIXED has one of bits, size_gb, gain_percent, here none"),
        (["quant.size_gb=3"], "here bits=5 and size_gb=3"),
        (["quant.candidates=[]"], "candidates=[]: scheme=MIXED chooses from some of"),
        (["quant.candidates=[W4A16,W5A16]"], "candidates=W5A16: formats that can be mixed are"),
        # A calibrated scale of activations, and one scale for a whole weight.
        (["quant.candidates=[FP8]"], "candidates=FP8: formats that can be mixed are"),
        (["quant.candidates=[Q8_0]"], "candidates=Q8_0: formats that can be mixed are"),
        (["quant.engine=gguf"], "engine=gguf does not make MIXED; llmcompressor can"),
        (["quant.algorithm=awq"], "algorithm=awq: llmcompressor makes MIXED by rtn, gptq"),
        (["quant.double_quant=true"], "double_quant=true does not go with scheme MIXED"),
        (["serve.kernel=marlin"], "serve.kernel=marlin"),
        (["quant.bits=-1"], "quant.bits"),
    ],
)
def test_what_does_not_fit_a_mix_is_refused(overrides: list[str], said: str, compose) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        validate(compose("quant=mixed", *overrides))


def test_a_formats_own_settings_are_those_of_the_mix_where_it_has_them() -> None:
    quant = settings_of("quant=mixed", "quant.group_size=64", "quant.dampening=0.1").quant
    four, fp4 = quant.candidate("W4A16"), quant.candidate("NVFP4")
    assert (four.algorithm, four.group_size, four.dampening) == (GPTQ, 64, 0.1)
    # Neither GPTQ nor another group size.
    assert (fp4.algorithm, fp4.group_size, fp4.effective_group_size) == (ROUND, None, SCHEMES["NVFP4"].group)


def test_each_module_has_its_own_format_once_it_is_chosen() -> None:
    quant = settings_of("quant=mixed").quant
    chosen = ChosenSettings.of_mix(quant, {"a": "W8A8", "b": "W4A16"}, ("c",))
    assert [chosen.of(module).scheme for module in "ab"] == ["W8A8", "W4A16"]
    assert chosen.schemes == ("W4A16", "W8A8")
    assert chosen.ignore == ("lm_head", "c")
    assert chosen.takes_tokens
    rounded = settings_of("quant=mixed", "quant.algorithm=rtn").quant
    assert not ChosenSettings.of_mix(rounded, {"a": "W8A8"}, ()).takes_tokens
    assert ChosenSettings.of_mix(rounded, {"a": "NVFP4"}, ()).takes_tokens


def test_other_formats_are_their_own_modules_format() -> None:
    quant = settings_of("quant=w4a16").quant
    assert quant.of("anything") is quant and quant.schemes == ("W4A16",)
    assert settings_of("quant=bf16").quant.schemes == ()
