"""What observers see is the range of the real activations, and equals what llm-compressor would have chosen."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.calibrate.forward import encode, sample
from pipeline.calibrate.observers import MinMaxObserver
from pipeline.config import PROJECT_ROOT
from pipeline.datasets import read_conversations
from pipeline.errors import InputError

DEMO = PROJECT_ROOT / "pipeline" / "demo" / "checkpoint"
SET = PROJECT_ROOT / "calibration_data" / "demo" / "calibration.json"
FLOATS = st.floats(-1e6, 1e6, width=32)


@given(st.lists(st.lists(FLOATS, min_size=1, max_size=6), min_size=1, max_size=5))
def test_minmax_over_batches_is_minmax_over_all(batches: list[list[float]]) -> None:
    observer = MinMaxObserver()
    for batch in batches:
        observer.hook(None, (torch.tensor(batch),))
    flat = torch.tensor([value for batch in batches for value in batch])
    assert observer.range().tolist() == [flat.min().item(), flat.max().item()]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_visible(value: float) -> None:
    observer = MinMaxObserver()
    observer.hook(None, (torch.tensor([1.0, value]),))
    observer.hook(None, (torch.tensor([2.0]),))
    assert not observer.is_finite()


def test_sampling_is_seeded_and_without_repetition(settings) -> None:
    conversations = read_conversations(SET)
    calibration = settings("calibration.num_samples=50").calibration
    first = sample(conversations, calibration)
    assert first == sample(conversations, calibration)
    assert len({str(c) for c in first}) == 50
    assert first != sample(conversations, settings("calibration.num_samples=50", "calibration.seed=1").calibration)


def test_too_few_conversations_are_refused(settings) -> None:
    with pytest.raises(InputError, match=r"calibration.num_samples=200.*has 1 "):
        sample([[{"role": "user", "content": "Hi"}]] * 300, settings().calibration)


def test_a_template_that_fails_is_named() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(InputError, match="chat template fails"):
        encode(tokenizer, [{"role": "user", "content": "Hi"}], 100)


def test_static_scales_equal_llm_compressors_own(tmp_path: Path) -> None:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    sequences = [torch.tensor([encode(tokenizer, c, 512)]) for c in read_conversations(SET)[:8]]
    observed: dict[str, MinMaxObserver] = {}
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            observed[name] = MinMaxObserver()
            hooks.append(module.register_forward_pre_hook(observed[name].hook))
    with torch.inference_mode():
        for sequence in sequences:
            model(sequence, use_cache=False)
    for hook in hooks:
        hook.remove()
    batches: Any = [{"input_ids": s, "attention_mask": torch.ones_like(s)} for s in sequences]
    recipe = QuantizationModifier(targets="Linear", scheme="FP8", ignore=["lm_head"])
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    oneshot(model=model, recipe=recipe, dataset=loader, num_calibration_samples=len(batches))
    compared = 0
    for name, module in model.named_modules():
        if getattr(module, "input_scale", None) is not None:
            ours = float(observed[name].range().abs().max()) / 448
            # The ranges are of the float model; llm-compressor observes behind layers already quantized.
            assert float(module.input_scale) == pytest.approx(ours, rel=0.25), name
            compared += 1
    assert compared == 28
    first = model.model.layers[0].self_attn.q_proj
    assert float(first.input_scale) == pytest.approx(
        float(observed["model.layers.0.self_attn.q_proj"].range().abs().max()) / 448, rel=1e-3
    )
