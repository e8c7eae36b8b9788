"""The files beside the weights are the source's, byte for byte, and no others."""

import json
import shutil
from pathlib import Path

import pytest
from support.settings import variants_of

from pipeline.demo import CHECKPOINT
from pipeline.models.safetensors import companions
from pipeline.runner import Runner

# As Llama 2 had it: transformers refuses to save a model with it.
CONTRADICTORY = {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": 1}


@pytest.mark.parametrize("content", [None, CONTRADICTORY], ids=["no generation config", "a contradictory one"])
def test_the_generation_config_travels_as_it_is(content: dict[str, object] | None, tmp_path: Path) -> None:
    source = shutil.copytree(CHECKPOINT, tmp_path / "model")
    path = source / "generation_config.json"
    path.unlink()
    if content is not None:
        path.write_text(json.dumps(content))
    given = ["stage=quantize", f"outputs={tmp_path / 'out'}", f"model.path={source}", "model.name=x"]
    given.append("variants=[fp8_dynamic,bnb_int8]")
    run = Runner(variants_of(*given), given)
    assert run.execute() == 0, run.failures
    for job in run.jobs:
        assert {each.name: each.read_bytes() for each in companions(job.checkpoint)} == {
            each.name: each.read_bytes() for each in companions(source)
        }
