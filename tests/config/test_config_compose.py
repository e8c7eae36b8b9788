"""Variants that are made of their files' settings are those that Hydra composes, whatever else is said."""

import hydra
import pytest
from support.settings import settings_of, variants_of

from pipeline.config import PROJECT_ROOT, Variant
from pipeline.config.compose import unapplied
from pipeline.errors import ConfigError

QUANTS = sorted(path.stem for path in (PROJECT_ROOT / "conf" / "quant").glob("*.yaml"))
CACHES = sorted(path.stem for path in (PROJECT_ROOT / "conf" / "kv_cache").glob("*.yaml"))


@pytest.fixture
def composed(monkeypatch):
    """What Hydra was asked to compose beside the command's own configuration."""
    seen, original = [], hydra.compose

    def counted(name, overrides):
        seen.append(overrides)
        return original(name, overrides)

    monkeypatch.setattr(hydra, "compose", counted)
    return seen


# Each cache composes every format; one shows the rule, the others are proofs.
@pytest.mark.parametrize("cache", [CACHES[0], *(pytest.param(cache, marks=pytest.mark.slow) for cache in CACHES[1:])])
def test_every_choice_is_what_hydra_composes(cache, composed):
    given = ["bench=latency", "calibration.num_samples=3", "eval.limit=5", "add_bf16=false"]
    variants = f"variants=[{','.join(f'{quant}+{cache}' for quant in QUANTS)}]"
    found = variants_of(*given, variants)
    assert len(composed) == 1, "no variant needed a composition of its own"
    assert found == [settings_of(*given, variants, f"quant={quant}", f"kv_cache={cache}") for quant in QUANTS]


def test_kernels_and_protocols_too(composed):
    given = ["variants=[bf16,awq@marlin,awq@machete]", "protocols=[quick,ladder]", "serve.kernel=auto"]
    found = variants_of(*given)
    assert len(composed) == 3
    assert [(each.quant.name, each.serve.kernel, each.bench.name) for each in found] == [
        (quant, kernel, protocol)
        for quant, kernel in (("bf16", "auto"), ("awq", "marlin"), ("awq", "machete"))
        for protocol in ("quick", "ladder")
    ]
    assert found[3] == settings_of(*given, "quant=awq", "serve.kernel=marlin", "bench=ladder")


@pytest.mark.parametrize("override", ["quant.ignore=[lm_head,'re:.*gate_proj']", "++quant.dampening=0.02"])
def test_an_override_within_the_format_holds_for_every_variant(override):
    given = ["stage=quantize", override, "variants=[w4a16,gptq]"]
    assert variants_of(*given) == [settings_of(*given, f"quant={quant}") for quant in ("w4a16", "gptq")]


def test_what_a_file_of_the_users_says_holds_for_every_variant(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nquant:\n  dampening: 0.05\n")
    given = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", "variants=[w4a16,gptq]", "stage=quantize"]
    assert [each.quant.dampening for each in variants_of(*given)] == [0.05, 0.05]


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as error:
        variants_of("variants=[bf16,fp9,awq+fp9]")
    assert "variants: fp9: " in str(error.value) and "variants: awq+fp9: " in str(error.value)
    with pytest.raises(ConfigError, match=r"^variants: bf16 protocols: nosuch: "):
        variants_of("variants=[bf16]", "protocols=[quick,nosuch]")


def test_what_is_wrong_with_all_variants_is_said_once():
    with pytest.raises(ConfigError, match=r"^protocols: nosuch: bench=nosuch: ") as error:
        variants_of("variants=[bf16,awq,gptq]", "protocols=[quick,nosuch]")
    assert str(error.value).count("nosuch") == 2
    with pytest.raises(ConfigError, match=r"^variants: awq, gptq: .*dampening") as error:
        variants_of("variants=[bf16,awq,gptq]", "quant.dampening=-1")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("w4a16(group_size=64)", ("w4a16", ("group_size=64",), "auto", "auto")),
        (
            "gptq(ignore=[lm_head,re:.*down_proj])+fp8_e4m3@marlin",
            ("gptq", ("ignore=[lm_head,re:.*down_proj]",), "fp8_e4m3", "marlin"),
        ),
        (
            "gptq(group_size=32, dampening=0.05)@machete",
            ("gptq", ("group_size=32", "dampening=0.05"), "auto", "machete"),
        ),
        ("bf16+fp8_e4m3", ("bf16", (), "fp8_e4m3", "auto")),
        ("awq@marlin", ("awq", (), "auto", "marlin")),
        ("w4a16(group_size=64)+fp8_e4m3@marlin@tp2@dp4", ("w4a16", ("group_size=64",), "fp8_e4m3", "marlin")),
    ],
)
def test_a_variants_name_is_read_and_written_alike(text, parts):
    variant = Variant.parse(text)
    assert (variant.format, variant.options, variant.kv_cache, variant.kernel) == parts
    assert Variant.parse(str(variant)) == variant


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("bf16", (1, 1)),
        ("bf16@tp2", (2, 1)),
        ("bf16+fp8_e4m3@dp2", (1, 2)),
        ("awq@marlin@tp4@dp2", (4, 2)),
        ("hub:a/b(revision=abc)+fp8_e4m3@tp2", (2, 1)),
        ("folder:/data/a@tp/b@marlin@tp2@dp2", (2, 2)),
    ],
)
def test_a_variant_names_its_gpus(text: str, gpus: tuple[int, int]) -> None:
    variant = Variant.parse(text)
    assert (variant.tensor_parallel, variant.data_parallel) == gpus
    assert str(variant) == text
    assert "@tp2" not in str(variant.checkpoint) and variant.checkpoint.gpus == 1


def test_variants_have_their_own_gpus_and_the_others_those_of_the_settings() -> None:
    given = ("serve.tensor_parallel=2", "variants=[fp8_static@tp1,awq@dp2,'w4a16(group_size=64)']")
    found = {str(each.variant): each.serve.gpus for each in variants_of(*given)}
    # The added BF16 is served as what has no GPUs of its own.
    assert found == {"bf16@tp2": 2, "fp8_static": 1, "awq@tp2@dp2": 4, "w4a16(group_size=64)@tp2": 2}


def test_bf16_on_two_gpus_is_the_baseline_that_was_asked_for() -> None:
    assert [str(each.variant) for each in variants_of("variants=[bf16@tp2,fp8_static@tp1]")] == [
        "bf16@tp2",
        "fp8_static",
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("variants=[bf16@tp0]", r"variants: bf16@tp0: serve.tensor_parallel=0"),
        ("variants=[bf16@tp2+fp8_e4m3]", r"before what serves it: bf16\+fp8_e4m3@tp2"),
        ("serve.extra_args=['--tensor-parallel-size=2']", r"has a setting of its own: serve.tensor_parallel"),
        ("serve.extra_args=[-dp,'2']", r"has a setting of its own: serve.data_parallel"),
    ],
)
def test_gpus_that_cannot_be_read_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        variants_of(override)


def test_settings_of_one_variant_are_its_own_and_in_its_name():
    plain, own, ignoring = variants_of(
        "stage=quantize", "variants=[w4a16,'w4a16(group_size=64)','w4a16(ignore=[lm_head,re:.*down_proj])']"
    )
    assert (plain.quant.effective_group_size, own.quant.effective_group_size) == (128, 64)
    assert ignoring.quant.ignore == ("lm_head", "re:.*down_proj")
    assert (str(own.variant), own.quant.title) == ("w4a16(group_size=64)", "W4A16, group_size=64")
    # What is made depends on the settings, not on how they were given.
    given = settings_of("quant=w4a16", "quant.group_size=64").quant
    assert own.quant.model_copy(update={"name": given.name, "title": given.title}) == given


def test_a_variants_unknown_setting_is_named():
    with pytest.raises(ConfigError, match=r"variants: w4a16\(group=64\)"):
        variants_of("variants=[bf16,'w4a16(group=64)']")
    with pytest.raises(ConfigError, match=r"has no configurable groups"):
        variants_of("variants=['fp8_dynamic(group_size=64)']")


def test_a_setting_for_all_variants_applies_where_a_format_has_it():
    given = ["quant.group_size=64", "variants=[bf16,fp8_static,w4a16,gptq]"]
    found = variants_of(*given)
    assert [each.quant.effective_group_size for each in found] == [None, None, 64, 64]
    assert unapplied(given, found) == ["quant.group_size=64 does not apply to bf16, fp8_static."]


def test_an_engine_applies_to_the_formats_that_it_makes():
    given = ["stage=quantize", "quant.engine=autoround", "variants=[fp8_dynamic,gptq]"]
    found = variants_of(*given)
    assert [each.quant.engine for each in found] == ["llmcompressor", "autoround"]
    assert unapplied(given, found) == ["quant.engine=autoround does not apply to fp8_dynamic."]


@pytest.mark.parametrize("setting", ["group_size=64", "double_quant=true", "engine=autoawq", "algorithm=awq"])
@pytest.mark.parametrize("quant", ["bnb_nf4", "fp8_dynamic", "w4a16", "awq", "gptq_int4"])
def test_a_setting_for_all_is_left_out_where_a_format_alone_would_refuse_it(quant, setting):
    override = f"quant.{setting}"
    variants = variants_of("add_bf16=false", f"variants=[{quant}]", override)
    try:
        alone = settings_of(f"quant={quant}", override)
    except ConfigError:
        assert unapplied([override], variants)
        return
    assert not unapplied([override], variants)
    assert variants[0].quant == alone.quant


def test_an_algorithm_is_one_of_the_engine_that_is_asked_for():
    given = ["stage=quantize", "quant.engine=autoround", "quant.algorithm=signround", "variants=[w4a16,fp8_dynamic]"]
    found = variants_of(*given)
    assert [(each.quant.engine, each.quant.algorithm) for each in found] == [
        ("autoround", "signround"),
        ("llmcompressor", "rtn"),
    ]
    assert len(unapplied(given, found)) == 2
