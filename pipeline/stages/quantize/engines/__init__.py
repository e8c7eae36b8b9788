"""One module for each quantization engine, by the value of `quant.engine`."""

from collections.abc import Mapping

from pipeline.stages.quantize.engines import (
    autoawq,
    autogptq,
    autoround,
    baseline,
    bitsandbytes,
    existing,
    gguf,
    gptqmodel,
    llmcompressor,
)
from pipeline.stages.quantize.engines.base import Engine

ENGINES: Mapping[str, Engine] = {
    "none": baseline,
    "existing": existing,
    "llmcompressor": llmcompressor,
    "autoawq": autoawq,
    "gptqmodel": gptqmodel,
    "autogptq": autogptq,
    "autoround": autoround,
    "bitsandbytes": bitsandbytes,
    "gguf": gguf,
}
