"""Weight errors of each engine, from the verification of its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.artifacts.keys import canonical
from pipeline.compare.engine_agreement import Engines, EngineWeights, agreement
from pipeline.config import QuantSettings, Stage
from pipeline.results.text import clean
from pipeline.stages.report.collect.artifacts import Source

UNREADABLE = (KeyError, TypeError, ValueError, AttributeError)


def engines(found: Sequence[Source]) -> tuple[Engines, ...]:
    """Return the formats of this report that more than one engine made."""
    return agreement([weights for source in found if (weights := _weights(source)) is not None])


def _weights(source: Source) -> EngineWeights | None:
    checked, quantized = source.finished(Stage.VERIFY), source.finished(Stage.QUANTIZE)
    if checked is None or quantized is None or source.kv_dtype != "auto" or source.variant.kernel != "auto":
        return None
    try:
        quant = QuantSettings.model_validate(source.quant)
        errors = {clean(i["module"], 120): float(i["error"]) for i in checked.results["weight_errors"]}
        distance = (checked.results.get("canary_logprobs") or {}).get("distance")
        group = quant.effective_group_size
        return EngineWeights(
            label=source.label,
            engine=quant.engine,
            algorithm=quant.algorithm,
            scheme=f"{quant.scheme}, groups of {group}" if group else str(quant.scheme),
            shown=canonical([quantized.payload.get(name) for name in ("model", "calibrate", "algorithm_samples")]),
            errors={module: error for module, error in errors.items() if math.isfinite(error)},
            distance=None if distance is None else float(distance),
        )
    except UNREADABLE:
        return None
