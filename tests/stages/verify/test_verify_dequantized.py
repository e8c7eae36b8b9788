"""The canary against the dequantized weights: other code's rounding is explained, a kernel's fault is not.

Served answers are computed here as a server with exact kernels would: in BF16, with the activations rounded as the
format rounds them. A fault is planted where a kernel would have it: the files are right, and what is multiplied is not.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pipeline.job import Job
from pipeline.models.activations import activation_scheme, is_known, rounded_inputs
from pipeline.models.architecture import text_config
from pipeline.models.dequantize import Tensors, Weights
from pipeline.models.headers import quantization_config, quantized_modules
from pipeline.models.loading import load_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.results.verify import CanaryAnswers
from pipeline.stages.verify import canary, dequantized, gate
from pipeline.stages.verify.outcomes import Failed, NotCompared

LAYER = "model.layers.1"
UP, DOWN, KEY, VALUE = (f"{LAYER}.{name}_proj" for name in ("mlp.up", "mlp.down", "self_attn.k", "self_attn.v"))
Images = dict[str, torch.Tensor]
FORMATS = ("w4a16", "gptq", "awq", "fp8_static", "int8_dynamic")


def served(job: Job, damage: Callable[[Images], None] = lambda images: None) -> CanaryAnswers:
    """What a server of the checkpoint answers whose kernels multiply by these weights."""
    model = load_model(job.model.folder, job.hardware, dtype=torch.bfloat16)
    stored = Tensors(job.checkpoint)
    weights = Weights(job.checkpoint) if quantized_modules(job.checkpoint) else None
    images = {module: weights[module] for module in weights.modules} if weights else {}
    damage(images)
    parameters = dict(model.named_parameters())
    scheme = activation_scheme(quantization_config(job.checkpoint))
    with torch.no_grad():
        for name in set(stored.files) & set(parameters) - {f"{module}.weight" for module in images}:
            parameters[name].copy_(stored[name])
        for module, image in images.items():
            parameters[f"{module}.weight"].copy_(image)
            if scheme is not None and is_known(scheme):
                scale = stored[f"{module}.input_scale"].float() if f"{module}.input_scale" in stored else None
                model.get_submodule(module).register_forward_pre_hook(rounding(scheme, scale))
    tokenizer = load_tokenizer(job.checkpoint)
    found: list[tuple[int, float]] = []
    for text in canary.TEXTS:
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.inference_mode():
            logprobs = model(ids).logits[0, :-1].float().log_softmax(-1)
        found += zip(ids[0, 1:].tolist(), logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist(), strict=True)
    return CanaryAnswers(tokens=tuple(token for token, _ in found), logprobs=tuple(value for _, value in found))


def rounding(scheme: Any, scale: torch.Tensor | None) -> Callable[..., tuple[torch.Tensor]]:
    def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        (entering,) = inputs
        flat = entering.reshape(-1, entering.shape[-1]).float()
        return (rounded_inputs(flat, scheme, scale).view_as(entering).to(entering.dtype),)

    return hook


def judged(job: Job, answers: CanaryAnswers, known: dequantized.Dequantized) -> tuple[float, float]:
    """The distance, and what kernels explain."""
    layers = int(text_config(job.model.config)["num_hidden_layers"])
    reference = known.answers.logprobs
    limit = canary.allowed_of_kernels(job.settings, layers, reference, [each.logprobs for each in known.rounded])
    return canary.distance(reference, answers.logprobs), limit


@pytest.mark.parametrize("quant", FORMATS)
def test_a_servers_rounding_is_explained(quant: str, made: Callable[..., Job]) -> None:
    job = made(f"quant={quant}")
    answers, known = served(job), dequantized.reference(job, canary.TEXTS)
    assert {each.tokens for each in known.rounded} == {known.answers.tokens} == {answers.tokens}
    seen, limit = judged(job, answers, known)
    assert 0 < seen < 0.75 * limit


def test_activations_are_rounded_as_the_format_does(made: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Static scales of huge ranges leave few steps for the rest: a fault of the format, and of no kernel."""
    job = made("quant=fp8_static")
    known = dequantized.reference(job, canary.TEXTS)
    monkeypatch.setattr(dequantized, "activation_scheme", lambda config: None)
    unrounded = dequantized.reference(job, canary.TEXTS)
    assert known.answers.logprobs != unrounded.answers.logprobs
    answers = served(job)
    assert judged(job, answers, known)[0] < judged(job, answers, unrounded)[0]


def test_what_rounding_moves_in_this_model_widens_the_bound(settings: Callable[..., Any]) -> None:
    reference = [-1.0, -2.0, -3.0, -4.0]
    bounds = [
        canary.allowed_of_kernels(settings("quant=w4a16"), 4, reference, [[value + moved for value in reference]])
        for moved in (0.0, 0.001, 0.2, 5.0)
    ]
    assert (
        bounds[0]
        == bounds[1]
        < 0.1
        < bounds[2]
        == pytest.approx(2 * canary.distance(reference, [-0.8, -1.8, -2.8, -3.8]))
    )
    assert bounds[3] == canary.CAP


def test_the_noise_is_that_of_all_draws(settings: Callable[..., Any]) -> None:
    """One draw may be far below what rounding does to a model: its server would be refused."""
    reference, moved = [-1.0, -2.0, -3.0, -4.0], [-0.9, -1.9, -2.9, -3.9]
    found = canary.allowed_of_kernels(settings("quant=w4a16"), 4, reference, [reference, moved])
    assert found == pytest.approx(2 * canary.distance(reference, moved) / 2**0.5)


def test_stochastic_rounding_is_unbiased_and_keeps_what_is_bf16() -> None:
    generator, value = torch.Generator().manual_seed(3), 1 + 2**-9
    drawn = dequantized.rounded_stochastically(torch.full((40_000,), value), generator)
    assert set(drawn.tolist()) == {1.0, 1 + 2**-7}
    # The error of a mean of so many is 1e-5.
    assert drawn.double().mean().item() == pytest.approx(value, abs=1e-4)
    exact = torch.tensor([0.0, -1.5, 3e38, 2.0**-120]).bfloat16().float()
    assert torch.equal(dequantized.rounded_stochastically(exact, generator), exact)


def pairs_exchanged(images: Images) -> None:
    images[UP] = images[UP].view(len(images[UP]), -1, 2).flip(2).reshape(images[UP].shape)


def other_rows_scales(images: Images) -> None:
    largest = images[UP].abs().amax(1, keepdim=True)
    images[UP] = images[UP] / largest * largest.roll(1, 0)


def exchanged(images: Images) -> None:
    images[KEY], images[VALUE] = images[VALUE], images[KEY]


def scaled(name: str, factor: float) -> Callable[[Images], None]:
    return lambda images: images.update({name: images[name] * factor})


FAULTS: dict[str, Callable[[Images], None]] = {
    "order of packing": pairs_exchanged,
    "scales of other rows": other_rows_scales,
    "keys and values exchanged": exchanged,
    "a scale that is dropped": scaled(DOWN, 0),
    "a scale that counts twice": scaled(DOWN, 2),
    "a scale that is half": scaled(VALUE, 0.5),
}


@pytest.mark.parametrize("quant", ["w4a16", "gptq", "awq"])
def test_a_kernels_fault_in_one_layer_is_seen_in_four_bits(quant: str, made: Callable[..., Job]) -> None:
    job = made(f"quant={quant}")
    reference = dequantized.reference(job, canary.TEXTS)
    found = {name: judged(job, served(job, damage), reference) for name, damage in FAULTS.items()}
    assert {name: pair for name, pair in found.items() if pair[0] <= pair[1]} == {}


def test_the_gate_fails_on_what_bf16s_bound_lets_pass(made: Callable[..., Job]) -> None:
    job = made("quant=w4a16")
    bf16 = served(made("quant=bf16"))
    errors = gate.compare(job.checkpoint, job.model.folder, job.settings.quant)
    right, wrong = served(job), served(job, FAULTS["a scale that is half"])
    known = gate.Findings(reference=bf16, weight_errors=errors, dequantized=dequantized.reference(job, canary.TEXTS))
    said = gate.log_probabilities(job, known, right)
    assert "away from BF16's" in said and "from those of the dequantized weights" in said
    assert known.canary_kernels is not None and known.canary_kernels.distance < known.canary_kernels.allowed
    gate.log_probabilities(job, gate.Findings(reference=bf16, weight_errors=errors), wrong)
    with pytest.raises(Failed, match=r"away from those of the dequantized weights, 0\.\d+ would be explained"):
        gate.log_probabilities(job, known, wrong)
    # A format may do more to a model than the formula says: its weights are right, and served as they are.
    far = bf16.model_copy(
        update={"logprobs": tuple(value - 9 * (place % 2) for place, value in enumerate(bf16.logprobs))}
    )
    known.reference = far
    assert "and is what its rounded weights answer" in gate.log_probabilities(job, known, right)
    with pytest.raises(Failed, match="away from BF16's"):
        gate.log_probabilities(job, gate.Findings(reference=far, weight_errors=errors), right)
    # Without BF16's answers, those of the dequantized weights are enough.
    alone = gate.Findings(dequantized=known.dequantized)
    assert "dequantized weights" in gate.log_probabilities(job, alone, right)
    with pytest.raises(NotCompared, match="BF16 model was not served"):
        gate.log_probabilities(job, gate.Findings(), right)


def test_what_cannot_be_computed_is_not_compared(made: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotCompared, match="weights are BF16's"):
        dequantized.reference(made("quant=bf16"), canary.TEXTS)
    job = made("quant=w4a16")
    with monkeypatch.context() as patch:
        patch.setattr(dequantized, "fits", lambda folder, hardware, dtype: False)
        with pytest.raises(NotCompared, match="does not fit"):
            dequantized.reference(job, canary.TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(dequantized, "load_model", lambda *_, **__: torch.nn.Linear(2, 2))
        with pytest.raises(NotCompared, match=r"transformers has no model.layers.0"):
            dequantized.reference(job, canary.TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(dequantized, "load_model", lambda *_, **__: 1 / 0)
        with pytest.raises(NotCompared, match=r"does not run it \(ZeroDivisionError\)"):
            dequantized.reference(job, canary.TEXTS)


@pytest.mark.parametrize(("device", "stops"), [("cpu", 0), ("cuda", 1)])
def test_a_gpu_is_freed_of_the_server_before_weights_are_loaded(
    device: str, stops: int, made: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []
    job = made("quant=w4a16")
    hardware = job.hardware.model_copy(update={"device": device})
    serving = SimpleNamespace(stop=lambda: stopped.append(device))
    monkeypatch.setattr(dequantized, "fits", lambda folder, hardware, dtype: False)
    with pytest.raises(NotCompared, match="does not fit"):
        dequantized.reference(replace(job, hardware=hardware, serving=cast(Any, serving)), canary.TEXTS)
    assert len(stopped) == stops
