"""Weight errors of each engine, from the verification of its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import ValidationError

from pipeline.artifacts.keys import canonical
from pipeline.compare.engine_agreement import Engines, EngineWeights, agreement
from pipeline.config import QuantSettings, Stage
from pipeline.results.base import Missing
from pipeline.results.text import clean
from pipeline.results.verify import VerifyResult
from pipeline.stages.report.collect.artifacts import Source


def engines(found: Sequence[Source]) -> tuple[Engines, ...]:
    """Return the formats of this report that more than one engine made."""
    return agreement([weights for source in found if (weights := _weights(source)) is not None])


def _weights(source: Source) -> EngineWeights | None:
    checked, quantized = source.result(VerifyResult), source.finished(Stage.QUANTIZE)
    if isinstance(checked, Missing) or quantized is None or checked.weight_errors is None:
        return None
    if source.kv_dtype != "auto" or source.variant.kernel != "auto":
        return None
    try:
        quant = QuantSettings.model_validate(source.quant)
    except ValidationError:
        return None
    group = quant.effective_group_size
    return EngineWeights(
        label=source.label,
        engine=quant.engine,
        algorithm=quant.algorithm,
        scheme=f"{quant.scheme}, groups of {group}" if group else str(quant.scheme),
        shown=canonical([quantized.payload.get(name) for name in ("model", "calibrate", "algorithm_samples")]),
        errors={clean(each.module, 120): each.error for each in checked.weight_errors if math.isfinite(each.error)},
        distance=None if checked.canary_logprobs is None else checked.canary_logprobs.distance,
    )
