"""The bound against the exact divergence over the whole vocabulary, by transformers in float32 on the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.compare.stats.kl_divergence import kl_by_token
from pipeline.config import PROJECT_ROOT, DivergenceSettings, Settings
from pipeline.demo import BENCHMARK, CHECKPOINT
from pipeline.results.records import Logprobs
from pipeline.stages.eval.divergence import Text, collect, read_texts

pytestmark = [pytest.mark.slow, pytest.mark.vllm]
TOP_K = 20
# Probabilities that are rounded to float32, and a remainder that is made of them.
ROUNDING = 2e-6


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A W4A16 checkpoint, made by the command."""
    outputs = tmp_path_factory.mktemp("outputs")
    command = [sys.executable, "-m", "pipeline", "stage=quantize", "quant=w4a16", f"outputs={outputs}"]
    subprocess.run(command, cwd=PROJECT_ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, check=True)
    (found,) = outputs.glob("demo/w4a16/quantize-*/checkpoint")
    return found


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    from transformers import AutoTokenizer

    wanted = {"dataset": {"path": BENCHMARK}, "num_sequences": 16, "max_seq_length": 256}
    return read_texts(DivergenceSettings.model_validate(wanted), AutoTokenizer.from_pretrained(CHECKPOINT))


def logprobs_of(checkpoint: Path, texts: list[Text], **options: Any) -> np.ndarray[Any, Any]:
    """Every log-probability of the vocabulary at each token that counts."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, **options)
    with torch.inference_mode():
        logits = [model(torch.tensor([text.tokens])).logits[0][[i - 1 for i in text.counted]] for text in texts]
    return torch.cat(logits).double().log_softmax(-1).numpy()


def reported(values: np.ndarray[Any, Any], texts: list[Text], k: int = TOP_K) -> Logprobs:
    """What a server with these log-probabilities would report."""
    token = np.array([text.tokens[i] for text in texts for i in text.counted], dtype=np.int32)
    ids = np.argsort(-values, axis=1)[:, :k].astype(np.int32)
    return Logprobs(
        sequence=np.repeat(np.arange(len(texts), dtype=np.int32), [len(text.counted) for text in texts]),
        position=np.array([i for text in texts for i in text.counted], dtype=np.int32),
        token=token,
        logprob=values[np.arange(len(token)), token].astype(np.float32),
        top_ids=ids,
        top_logprobs=np.take_along_axis(values, ids, axis=1).astype(np.float32),
    )


def test_the_bound_is_below_the_exact_divergence_and_close_to_it(
    quantized: Path, texts: list[Text], settings: Callable[..., Settings], tmp_path: Path
) -> None:
    from transformers.utils.quantization_config import CompressedTensorsConfig

    from pipeline.hardware.probe import probe
    from pipeline.progress import Progress
    from pipeline.serve.server import SERVED_NAME, Serving
    from pipeline.stages.eval.endpoint import Endpoint

    p = logprobs_of(CHECKPOINT, texts)
    q = logprobs_of(quantized, texts, quantization_config=CompressedTensorsConfig(dequantize=True))
    exact = (np.exp(p) * (p - q)).sum(axis=1)
    bound = kl_by_token(reported(q, texts), reported(p, texts))
    print(f"exact {exact.mean():.5f} nats per token, bound {bound.mean():.5f}, over by {(bound - exact).max():.1e}")
    assert (bound <= exact + ROUNDING * (1 + exact)).all()
    assert exact.mean() > 1e-3
    # One sequence alone, and all of them.
    first = slice(0, len(texts[0].counted))
    for part in (first, slice(None)):
        assert 0.5 * exact[part].mean() <= bound[part].mean() <= exact[part].mean()

    given = settings()
    serving = Serving(probe(given.hardware.device), tmp_path, Progress())
    try:
        answers = []
        for name, folder in (("bf16", CHECKPOINT), ("w4a16", quantized)):
            server = serving.serve(folder, given, name)
            endpoint = Endpoint(server.url, SERVED_NAME, 8, server.check_alive)
            answers.append(Logprobs(**collect(texts, TOP_K, endpoint)))
    finally:
        serving.stop()
    served = kl_by_token(answers[1], answers[0]).mean()
    print(f"served in BF16 {served:.5f}")
    # vLLM computes in BF16, which has its own rounding.
    assert 0.5 * exact.mean() <= served <= 1.1 * exact.mean()
