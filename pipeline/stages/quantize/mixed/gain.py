"""The gain of a mix in throughput over BF16 on the target GPU, by the roofline under the load of the study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.compare.published.tables import PublishedProtocol
from pipeline.compare.roofline.device import Device
from pipeline.compare.roofline.footprint import footprint
from pipeline.compare.roofline.model import Entry, roofline
from pipeline.config import ChosenSettings, QuantSettings, Settings, choice
from pipeline.errors import ConfigError
from pipeline.formats.layouts import Stored
from pipeline.hardware.gpus import Gpu, gpu_of
from pipeline.models.layout import bytes_of, stored
from pipeline.models.mix import UNROUNDED
from pipeline.models.work import weights_of
from pipeline.results.base import Missing

if TYPE_CHECKING:
    from pipeline.hardware.probe import Hardware

# Formats by module -> percent.
Gain = Callable[[Mapping[str, str]], float]


def target(settings: Settings, here: Hardware) -> Gpu:
    """Return the GPU that a mix is made for.

    Raises:
        ConfigError: if the catalogue does not have it, so that no roofline is known.
    """
    gpu = settings.hardware.gpu or gpu_of(here.name)
    if gpu is None:
        raise ConfigError(
            f"quant.gain_percent={settings.quant.gain_percent:g}: no roofline of {here.name} is known.",
            "Name the GPU that will serve it, e.g. hardware.gpu=h100_sxm, or set quant.bits or quant.size_gb instead.",
        )
    return gpu


def gain_on(gpu: Gpu, quant: QuantSettings, original: Stored, config: Mapping[str, Any], kv_dtype: str) -> Gain:
    """Return a function for the gain of a choice on a GPU.

    Args:
        gpu: the target.
        quant: settings of the mix.
        original: type and shape of every tensor of the BF16 checkpoint.
        config: content of config.json.
        kv_dtype: number format of keys and values.
    """
    study = PublishedProtocol.model_validate(choice("reference", "study_protocol"))
    context = round(study.load.mean_input + study.load.mean_output / 2)
    weights = weights_of(original)
    bf16 = footprint(weights, {}, bytes_of(original), config, "auto")

    def gain(formats: Mapping[str, str]) -> float:
        rounded = {module: name for module, name in formats.items() if name != UNROUNDED}
        kept = tuple(module for module in formats if module not in rounded)
        sizes = bytes_of(stored(original, config, ChosenSettings.of_mix(quant, rounded, kept)))
        entries = [
            Entry(name="bf16", label="BF16", footprint=bf16),
            Entry(name="mix", label="mix", footprint=footprint(weights, rounded, sizes, config, kv_dtype)),
        ]
        found = roofline(Device.of(gpu), entries, study.load, study.utilization, context).rows[1].gain_percent
        if isinstance(found, Missing):
            raise ConfigError(
                f"quant.gain_percent={quant.gain_percent:g}: {gpu.name} has no roofline of it: {found.reason}.",
                "Set quant.bits or quant.size_gb instead.",
            )
        return found

    return gain
