"""Training, in the small: the loss falls, a run repeats bit for bit, an interrupted one goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from tools.demo_model.corpus import Corpus
from tools.demo_model.model import Shape
from tools.demo_model.optimizer import orthogonalize
from tools.demo_model.tokenizer import train_tokenizer
from tools.demo_model.train import TrainingRun, TrainingSettings, export, learning_rate

TINY = TrainingSettings(
    steps=12,
    tokens_per_step=600,
    micro_batches=2,
    shape=Shape(hidden=64, intermediate=128, layers=2, heads=4, kv_heads=2, head_dim=32),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(Corpus(1).texts(1000), vocab_size=768)


def weights_after(run: TrainingRun, steps: int) -> dict[str, torch.Tensor]:
    while run.progress.step < steps:
        run.step()
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_falls_and_the_run_repeats(tokenizer: Tokenizer) -> None:
    run = TrainingRun(TINY, tokenizer)
    first = weights_after(run, TINY.steps)
    assert run.progress.losses[-1] < 0.9 * run.progress.losses[0]
    assert same(first, weights_after(TrainingRun(TINY, tokenizer), TINY.steps))


def test_an_interrupted_run_ends_in_the_same_weights(tokenizer: Tokenizer, tmp_path: Path) -> None:
    whole = TrainingRun(TINY, tokenizer)
    expected = weights_after(whole, 8)
    stopped = TrainingRun(TINY, tokenizer)
    weights_after(stopped, 5)
    stopped.save_state(tmp_path / "state.pt")
    again = TrainingRun(TINY, tokenizer)
    again.load_state(tmp_path / "state.pt")
    assert again.progress.step == 5
    assert same(expected, weights_after(again, 8))
    assert again.progress.corpus_hash == whole.progress.corpus_hash
    assert again.progress.losses == whole.progress.losses


def test_the_state_of_other_settings_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    TrainingRun(TINY, tokenizer).save_state(tmp_path / "state.pt")
    with pytest.raises(ValueError, match="other settings"):
        TrainingRun(replace(TINY, seed=TINY.seed + 1), tokenizer).load_state(tmp_path / "state.pt")


def test_export_writes_a_folder_that_transformers_loads(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = TrainingRun(TINY, tokenizer)
    run.step()
    provenance = export(run, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = AutoTokenizer.from_pretrained(tmp_path)("1 + 1 =", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(ids).logits).all()
    assert provenance["steps"] == 1
    assert (tmp_path / "provenance.json").exists()


def test_the_learning_rate_rises_stays_and_falls_to_almost_nothing() -> None:
    settings = TrainingSettings(steps=100, warmup=0.1, cooldown=0.5)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0
    assert rates[30] == 1.0 and rates[-1] == pytest.approx(0.02)
    assert rates[50:] == sorted(rates[50:], reverse=True)


@pytest.mark.parametrize("shape", [(3, 16, 48), (2, 48, 16), (1, 32, 32)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert values.min() > 0.3 and values.max() < 1.5
