"""The identity of a gate's outcome."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from support.settings import variants_of

from pipeline.config import Stage
from pipeline.results.verify import CHECKS
from pipeline.runner import Runner
from pipeline.stages.verify import identity


def test_a_checkpoint_that_was_judged_by_its_files_is_judged_again_where_it_is_served(tmp_path: Path) -> None:
    asked = ["stage=[verify]", "variants=[bf16]", f"outputs={tmp_path}"]
    (job,) = Runner(variants_of(*asked), asked).jobs
    assert not job.unserved and set(identity(job)) == {"quantize", "serve", "checks"}
    assert identity(job)["quantize"] == job.artifact(Stage.QUANTIZE).key
    assert identity(job)["checks"] == list(CHECKS)
    elsewhere = replace(job, unserved="no such products here")
    assert identity(elsewhere) == {**identity(job), "unserved": True}
    assert elsewhere.artifact(Stage.VERIFY).key != job.artifact(Stage.VERIFY).key
