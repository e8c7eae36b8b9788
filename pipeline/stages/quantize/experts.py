"""Experts of a mixture in each engine: the tokens that they are shown, or why the engine cannot quantize them.

llm-compressor and GPTQModel show every expert every token. AutoRound shows an expert the tokens that the router sends
to it: without any, no gradient moves its weights from the nearest numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.config import QuantSettings, Stage
from pipeline.models.architecture import has_experts, text_config
from pipeline.models.modules import joined_experts
from pipeline.results.base import Missing
from pipeline.results.calibration import read_summary

if TYPE_CHECKING:
    from pipeline.job import Job

_JOINED = "rounds Linear modules alone, and transformers keeps the experts of a layer in one parameter"
# Engine -> why it cannot quantize experts.
CANNOT: Mapping[str, str] = {
    "autoawq": _JOINED,
    "bitsandbytes": _JOINED,
    "autogptq": "shows an expert the tokens of its router alone, and sets weights that met no activation to zero",
    "gguf": "stores the experts of a layer in one tensor, which this pipeline cannot compare with BF16's",
}
# Engines that show an expert the tokens of its router alone.
ROUTED = ("autoround",)


def why_no_experts(quant: QuantSettings, config: Mapping[str, Any], tensors: Iterable[str] = ()) -> str:
    """Return why an engine cannot quantize the experts of a mixture; empty if it can.

    Args:
        quant: the format.
        config: content of the model's config.json.
        tensors: names of the model's tensors, as far as they are known.
    """
    if quant.scheme is None or quant.is_existing or not has_experts(config):
        return ""
    kind = text_config(config).get("model_type")
    if joined := joined_experts(tensors):
        return (
            f"quant={quant.name} on a mixture of experts ({kind}): the experts of a layer are one tensor ({joined}), "
            "and engines make tensors of each expert, which are not compared with it here; choose bf16, or "
            "hub:<owner>/<name> of a checkpoint that others quantized"
        )
    if (reason := CANNOT.get(quant.engine)) is None:
        return ""
    return (
        f"quant.engine={quant.engine} on a mixture of experts ({kind}): it {reason}; "
        "choose a format of quant.engine=llmcompressor, which shows every expert every token"
    )


def rounded_to_nearest(job: Job) -> tuple[str, ...]:
    """Return the experts that an engine rounded to nearest, as none of its tokens was sent to them."""
    quant = job.settings.quant
    if quant.engine not in ROUTED or not quant.takes_tokens:
        return ()
    summary = read_summary(job.artifact(Stage.CALIBRATE).folder)
    if isinstance(summary, Missing):
        return ()
    samples = job.settings.calibration.algorithm_samples or summary.conversations
    return tuple(f"{layer.name}.{number}" for layer in summary.experts for number in layer.unrouted_in(samples))
