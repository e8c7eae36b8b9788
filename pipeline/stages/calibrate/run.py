"""The stage from end to end: draw, check, observe, write."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from pipeline.artifacts.workspace import Draft
from pipeline.models.tokenizer import load_tokenizer
from pipeline.results.calibration import CARD, SUMMARY, CalibrateResult
from pipeline.stages.calibrate import artifact, contamination
from pipeline.stages.calibrate.card import card_of, to_markdown
from pipeline.stages.calibrate.conversations import draw, interleaved
from pipeline.stages.calibrate.coverage import ExpertCoverage
from pipeline.stages.calibrate.observers import Observers
from pipeline.stages.calibrate.summary import summary_of

if TYPE_CHECKING:
    from pipeline.job import Job


def calibrate(job: Job, draft: Draft) -> None:
    """Fill the draft; faults in the conversations are reported before the model is loaded."""
    settings = job.settings.calibration
    job.progress.detail("reading conversations")
    trust = job.settings.model.trust_remote_code
    tokenizer = load_tokenizer(job.model.folder, trust_remote_code=trust)
    drawn = draw(job, tokenizer)
    entries = contamination.report(job, [text for each in drawn for text in each.texts])
    contamination.refuse_contamination(job, entries)
    card = card_of(job, drawn, tokenizer, entries)

    from pipeline.models.forward import decoder

    sequences = interleaved(drawn, settings.seed)
    decoding = decoder(job.model, job.hardware, job.settings.calibration.layerwise, job.progress.detail)
    observers, coverage = Observers(decoding.model, settings, len(sequences)), ExpertCoverage(decoding.model)
    started = time.monotonic()
    decoding.run(sequences, observers, job.progress.detail)
    seconds = time.monotonic() - started
    observers.detach()
    coverage.detach()
    (draft.folder / CARD).write_text(to_markdown(card, coverage.layers()), encoding="utf-8")
    job.progress.detail("computing ranges")
    artifact.write(draft.folder, sequences, observers, settings)
    dtype = str(next(decoding.model.parameters()).dtype).removeprefix("torch.")
    summary = summary_of(observers, settings, card, dtype, coverage.layers())
    (draft.folder / SUMMARY).write_text(
        json.dumps(summary.model_dump(mode="json", exclude_unset=True), ensure_ascii=False), encoding="utf-8"
    )
    draft.results = CalibrateResult(
        conversations=len(sequences),
        tokens=card.tokens,
        tokens_per_second=card.tokens / seconds,
        layerwise=type(decoding).__name__ == "Layerwise",
        dtype=dtype,
        verdict={name: verdict.text for name, verdict in summary.verdict.items()},
    )
