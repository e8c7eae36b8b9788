"""A gain in place of a size: the roofline of the target GPU says which bytes it takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.compare.roofline.device import Device
from pipeline.compare.roofline.model import Entry, roofline
from pipeline.config import Settings, Variant
from pipeline.errors import ConfigError
from pipeline.hardware.gpus import GPUS, gpu_of
from pipeline.hardware.probe import probe
from pipeline.models.architecture import DecoderShape
from pipeline.models.modules import decoder_linears, loaded_as_one
from pipeline.results.mix import Mix, Sensitivities
from pipeline.stages.quantize.mixed.choice import chosen
from pipeline.stages.quantize.mixed.gain import gain_on, target
from pipeline.stages.report.collect.footprints import of_config
from pipeline.stages.report.collect.published import protocols

STUDY = next(protocol for protocol, _ in protocols())
TENSORS = {name: ("BF16", shape) for name, shape in DecoderShape.of(STUDY.config).tensors.items()}
LINEARS = decoder_linears(TENSORS, STUDY.config)
H100 = next(gpu for gpu in GPUS if gpu.key == "h100_sxm")


@pytest.fixture
def mix(settings: Callable[..., Settings]) -> Callable[[float], Mix]:
    costs = {
        name: {"W4A16": 1.0 + number / 100, "FP8_DYNAMIC": 0.1} for number, name in enumerate(loaded_as_one(LINEARS))
    }
    known = Sensitivities(tokens=100, kl=costs)

    def made(percent: float) -> Mix:
        given = ("quant.candidates=[W4A16,FP8_DYNAMIC]", "quant.bits=null", f"quant.gain_percent={percent}")
        quant = settings("quant=mixed", *given).quant
        return chosen(quant, TENSORS, STUDY.config, known, gain_on(H100, quant, TENSORS, STUDY.config, "auto"))

    return made


def gain_of(mix: Mix, settings: Callable[..., Settings]) -> float:
    gain = gain_on(H100, settings("quant=mixed").quant, TENSORS, STUDY.config, "auto")
    return gain({module: group.format for group in mix.groups for module in group.modules})


def test_a_gain_is_reached_with_as_little_loss_as_it_takes(mix, settings: Callable[..., Settings]) -> None:
    little, more = mix(5), mix(20)
    assert gain_of(little, settings) >= 5 and gain_of(more, settings) >= 20
    assert little.bits > more.bits and little.kl < more.kl
    assert little.budget == "gain_percent=5"


def test_more_than_the_smallest_mix_gains_is_refused(mix) -> None:
    with pytest.raises(ConfigError, match=r"gain_percent=500: by the roofline, the smallest mix gains \d+\.\d %"):
        mix(500)


def test_the_gain_is_that_of_the_report(settings: Callable[..., Settings]) -> None:
    gain = gain_on(H100, settings("quant=mixed").quant, TENSORS, STUDY.config, "auto")
    entries = [
        Entry(name=name, label=name, footprint=of_config(STUDY.config, Variant(quant=name)))
        for name in ("bf16", "fp8_dynamic", "w4a16")
    ]
    rows = roofline(Device.of(H100), entries, STUDY.load, STUDY.utilization, 331).rows
    assert gain(dict.fromkeys(LINEARS, "FP8_DYNAMIC")) == pytest.approx(rows[1].gain_percent, abs=0.5)
    assert gain(dict.fromkeys(LINEARS, "W4A16")) == pytest.approx(rows[2].gain_percent, abs=0.5)
    assert gain(dict.fromkeys(LINEARS, "BF16")) == pytest.approx(0, abs=0.1)


def test_a_machine_without_a_roofline_is_refused_before_any_work(settings: Callable[..., Settings]) -> None:
    given = settings("quant=mixed", "quant.bits=null", "quant.gain_percent=10")
    here = probe("cpu")
    assert gpu_of(here.name) is None
    with pytest.raises(ConfigError, match=r"quant\.gain_percent=10: no roofline of .* is known"):
        target(given, here)
    named = settings("quant=mixed", "quant.bits=null", "quant.gain_percent=10", "hardware.gpu=h100_sxm")
    assert target(named, here).name == H100.name
