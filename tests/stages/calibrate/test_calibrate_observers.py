"""What is watched: every Linear's input once, keys and values per head; whole or layer by layer, the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, Qwen3_5TextConfig, Qwen3NextConfig

from pipeline.demo import CHECKPOINT
from pipeline.errors import ConfigError, InputError, StageError
from pipeline.hardware.probe import Hardware
from pipeline.models.forward import Layerwise, Whole, _forward, _observed, _padded, decoder
from pipeline.models.loading import load_model
from pipeline.results.calibration import RANGES, SKETCHES
from pipeline.stages.calibrate import artifact
from pipeline.stages.calibrate.conversations import draw
from pipeline.stages.calibrate.observers import Observers, checkpoints

FEW = "calibration.num_samples=8"


def sequences_of(job) -> list[list[int]]:
    return [s for each in draw(job, AutoTokenizer.from_pretrained(CHECKPOINT)) for s in each.sequences]


def decoding_of(asked):
    return decoder(asked.model, asked.hardware, asked.settings.calibration.layerwise, lambda _: None)


def observe(job, sequences: list[list[int]], kind: type = Whole) -> Observers:
    decoding = kind(job.model, job.hardware, lambda _: None)
    observers = Observers(decoding.model, job.settings.calibration, len(sequences))
    decoding.run(sequences, observers, lambda _: None)
    return observers


def test_linears_that_share_an_input_share_a_site(job) -> None:
    asked = job(FEW)
    sites = {site.name: site for site in observe(asked, sequences_of(asked)[:2])}
    assert len(sites) == 4 * (4 + 2)
    first = sites["model.layers.0.self_attn.q_proj"]
    assert [name.rpartition(".")[2] for name in first.modules] == ["q_proj", "k_proj", "v_proj"]
    assert {site.kind for site in sites.values()} == {"q/k/v_proj", "o_proj", "gate/up_proj", "down_proj", "K", "V"}
    assert {site.layer for site in sites.values()} == {0, 1, 2, 3}
    covered = [module for site in sites.values() for module in site.modules]
    assert len(covered) == len(set(covered)) == 28


def test_keys_and_values_are_those_of_a_kv_cache(job) -> None:
    asked = job(FEW)
    (sequence, *_) = sequences_of(asked)
    sites = {site.name: site for site in observe(asked, [sequence])}
    model = load_model(asked.model.folder, asked.hardware)
    with torch.inference_mode():
        cache = model(torch.tensor([sequence]), use_cache=True).past_key_values
    for layer in range(4):
        for letter, tensor in (("k", cache.layers[layer].keys), ("v", cache.layers[layer].values)):
            seen = sites[f"model.layers.{layer}.self_attn.{letter}"].sketch
            assert torch.equal(seen.extremes[0, :, 1], tensor[0].amax((1, 2)))
            assert torch.equal(seen.extremes[0, :, 0], tensor[0].amin((1, 2)))


def test_layer_by_layer_gives_the_same_bits(job, tmp_path: Path) -> None:
    asked = job(FEW)
    sequences = sequences_of(asked)
    for kind in (Whole, Layerwise):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        artifact.write(folder, sequences, observe(asked, sequences, kind), asked.settings.calibration)
    for name in (SKETCHES, RANGES):
        assert (tmp_path / "Whole" / name).read_bytes() == (tmp_path / "Layerwise" / name).read_bytes()


def test_layerwise_is_a_setting_and_a_matter_of_memory(job, monkeypatch) -> None:
    assert isinstance(decoding_of(job(FEW)), Whole)
    assert isinstance(decoding_of(job(FEW, "calibration.layerwise=always")), Layerwise)
    monkeypatch.setattr("pipeline.models.forward.SHARE_OF_MEMORY", 1e-9)
    assert isinstance(decoding_of(job(FEW)), Layerwise)
    assert isinstance(decoding_of(job(FEW, "calibration.layerwise=never")), Whole)


def test_a_checkpoint_laid_out_otherwise_is_refused_layer_by_layer(job, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    model.mkdir()
    for path in CHECKPOINT.iterdir():
        if path.suffix != ".safetensors":
            (model / path.name).write_bytes(path.read_bytes())
    tensors = load_file(CHECKPOINT / "model.safetensors")
    tensors["other.name"] = tensors.pop("model.layers.0.mlp.down_proj.weight")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    asked = job(FEW, f"model.path={model}")
    with pytest.raises(ConfigError, match=r"no tensor model.layers.0.mlp.down_proj.weight"):
        observe(asked, sequences_of(asked), Layerwise)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named_with_layer_and_sample(job, value: float) -> None:
    asked = job(FEW)
    sequences = sequences_of(asked)
    decoding = Whole(asked.model, asked.hardware, lambda _: None)
    observers = Observers(decoding.model, asked.settings.calibration, len(sequences))
    poisoned = decoding.model.model.layers[2].mlp.gate_proj
    rare = set(sequences[3]) - {token for s in sequences[:3] for token in s}
    # A token that the first three samples lack makes the fourth one fail, and nothing before it.
    decoding.model.model.embed_tokens.weight.data[list(rare)] = value
    assert poisoned.weight.isfinite().all()
    with pytest.raises(InputError, match=r"NaN or Inf enters model.layers.0.self_attn.q_proj on calibration sample 3"):
        decoding.run(sequences, observers, lambda _: None)


def test_minmax_scales_equal_llm_compressors_own(job, tmp_path: Path, monkeypatch) -> None:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    # In float32 also where BF16 is native: a padding mask alone moves BF16's ranges by a unit in the last place.
    monkeypatch.setattr(Hardware, "has_native_bf16", property(lambda _: False))
    asked = job(FEW)
    sequences = sequences_of(asked)
    artifact.write(tmp_path, sequences, observe(asked, sequences), asked.settings.calibration)
    ours = artifact.read_scales(tmp_path, asked.settings.calibration, "fp8_e4m3")
    model = load_model(asked.model.folder, asked.hardware)
    batches: Any = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in artifact.read_tokens(tmp_path)
    ]
    oneshot(
        model=model,
        recipe=QuantizationModifier(targets="Linear", scheme="FP8", ignore=["lm_head"]),
        dataset=torch.utils.data.DataLoader(batches, batch_size=None),
        num_calibration_samples=len(batches),
        pipeline="basic",  # observes the unquantized model, as we do
    )
    theirs = {name: float(m.input_scale) for name, m in model.named_modules() if hasattr(m, "input_scale")}
    assert len(theirs) == 28
    for name, scale in theirs.items():
        assert ours[name] == pytest.approx(scale, rel=1e-3), name


SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
HYBRID = {
    "num_key_value_heads": 2, "head_dim": 32, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


def tiny(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def watched(model: Any, job: Any, length: int) -> Observers:
    """Every site of a model after one sequence of that length."""
    observers = Observers(model, job.settings.calibration, 1)
    with torch.inference_mode():
        model.get_decoder()(torch.arange(length)[None], use_cache=False, past_key_values=observers.cache())
    observers.commit(0)
    observers.detach()
    return observers


@pytest.mark.parametrize(
    "config",
    [Qwen3_5TextConfig(**SIZES, **HYBRID), Qwen3NextConfig(**SIZES, **HYBRID, **EXPERTS)],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("length", [2, 20])
def test_linear_attention_runs_and_only_attention_has_keys(job, config: Any, length: int) -> None:
    model = tiny(config)
    sites = watched(model, job(), length).sites
    kept = [name for name in sites if name.endswith((".k", ".v"))]
    assert kept == ["model.layers.3.self_attn.k", "model.layers.3.self_attn.v"]
    with torch.inference_mode():
        cache = model(torch.arange(length)[None], use_cache=True).past_key_values
    for name, tensor in zip(kept, (cache.layers[3].keys, cache.layers[3].values), strict=True):
        assert torch.equal(sites[name].sketch.extremes[0, :, 1], tensor[0].amax((1, 2)))


def test_a_first_pass_through_linear_attention_keeps_no_state(job) -> None:
    model = tiny(Qwen3_5TextConfig(**SIZES, **HYBRID))
    cache = Observers(model, job().settings.calibration, 1).cache()
    with torch.inference_mode():
        seen = model.get_decoder()(torch.arange(20)[None], use_cache=False, past_key_values=cache).last_hidden_state
        alone = model.get_decoder()(torch.arange(20)[None], use_cache=False).last_hidden_state
    assert torch.equal(seen, alone)
    assert all(state is None for layer in cache.layers[:3] for state in layer.recurrent_states.values())
    assert all(state is None for layer in cache.layers[:3] for state in layer.conv_states.values())


def test_attention_of_another_name_gives_its_name_to_keys_and_values(job) -> None:
    sites = watched(tiny(GPTNeoXConfig(**SIZES)), job(), 8).sites
    assert {name for name in sites if name.endswith(".k")} == {f"gpt_neox.layers.{n}.attention.k" for n in range(4)}


def test_keys_that_no_attention_module_owns_are_refused(job) -> None:
    observers = Observers(torch.nn.Linear(2, 2), job().settings.calibration, 1)
    with pytest.raises(
        StageError, match="Layer 0 fills a KV cache, but no module of that number is known as attention"
    ):
        observers.see_cache(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), 0)


@pytest.mark.parametrize("kind", [Whole, Layerwise])
def test_a_batch_gives_what_its_samples_give_one_by_one(job, kind: type, tmp_path: Path, monkeypatch) -> None:
    """In float32: a product of another shape may round otherwise, in the last place."""
    monkeypatch.setattr(Hardware, "has_native_bf16", property(lambda _: False))
    found = []
    for size in (1, 5):
        asked = job("calibration.num_samples=12", f"calibration.batch_size={size}", "calibration.histogram_tokens=16")
        sequences = sequences_of(asked)
        assert len({len(each) for each in sequences}) > 3
        observers = observe(asked, sequences, kind)
        found.append(list(observers))
    for one, batched in zip(*found, strict=True):
        assert (one.name, one.modules) == (batched.name, batched.modules)
        for name in ("extremes", "channel_range", "channel_average"):
            expected = getattr(one.sketch, name)
            near = 2e-5 * float(expected.abs().max())
            assert torch.allclose(getattr(batched.sketch, name), expected, rtol=2e-5, atol=near), (one.name, name)
        assert one.sketch.snapshots.keys() == batched.sketch.snapshots.keys()
        assert int(one.sketch.histogram.sum()) == int(batched.sketch.histogram.sum())
        # A value at the edge of a bin may fall on its other side.
        moved = (one.sketch.histogram - batched.sketch.histogram).abs().sum()
        assert int(moved) <= 0.002 * int(one.sketch.histogram.sum())


def test_batches_end_where_ranges_are_evaluated_and_at_the_limit(job) -> None:
    model = torch.nn.Linear(2, 2)

    def ends(count: int, length: int, device: str, *overrides: str) -> list[int]:
        observers = Observers(model, job(*overrides).settings.calibration, count)
        found = observers.batches([length] * count, device)
        assert [number for batch in found for number in batch] == list(range(count))
        return [batch.stop for batch in found]

    assert ends(20, 64, "cpu") == list(range(1, 21))
    assert ends(20, 64, "cuda") == ends(20, 64, "cpu", "calibration.batch_size=20") == checkpoints(20)
    # Three of 2,500 tokens fit into 8,192.
    assert ends(30, 2500, "cuda") == [1, 2, 3, 4, 6, 8, 9, 12, 15, 16, 18, 21, 24, 27, 30]
    assert ends(3, 100_000, "cuda") == [1, 2, 3]
    assert ends(20, 64, "cuda", "calibration.batch_size=1") == list(range(1, 21))


def test_models_that_rotate_by_the_longest_of_a_batch_get_none(job) -> None:
    scaled = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    for parameters, is_batched in ((scaled, False), ({"rope_type": "default", "rope_theta": 10000.0}, True)):
        model = tiny(GPTNeoXConfig(**SIZES, rope_parameters=parameters))
        observers = Observers(model, job("calibration.batch_size=4").settings.calibration, 16)
        assert (len(observers.batches([8] * 16, "cpu")) < 16) == is_batched


def test_a_batch_of_a_mixture_of_experts_leaves_its_padding_out(job) -> None:
    config = Qwen3NextConfig(**SIZES, **HYBRID, **EXPERTS)
    model = tiny(config)
    sequences = [[5, 9, 11], [3, 1, 4, 1, 5, 9, 2, 6], [7]]
    found = []
    for batches in ([range(1), range(1, 2), range(2, 3)], [range(3)]):
        observers = Observers(model, job().settings.calibration, 3)
        for batch in batches:
            padded = _padded(batch, sequences)
            with torch.inference_mode(), _observed(batch, sequences, observers):
                _forward(model, padded, observers)
        observers.detach()
        found.append(observers.sites)
    assert found[0].keys() == found[1].keys()
    for name, site in found[0].items():
        expected = site.sketch.extremes
        assert torch.allclose(found[1][name].sketch.extremes, expected, rtol=1e-4, atol=1e-5), name


def test_tokens_of_a_batch_that_belong_to_no_known_sample_are_refused(job) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    observers = Observers(model, job().settings.calibration, 2)
    observers.begin([3, 2])
    model(torch.ones(2, 3, 2))
    with pytest.raises(StageError, match=r"0 is given 5 tokens of a batch of 2 samples of up to 3.*batch_size=1"):
        model(torch.ones(5, 2))
