"""Variants that are made of their files' settings are those that Hydra composes, whatever else is said."""

import hydra
import pytest
from support.settings import settings_of, variants_of

from pipeline.config import PROJECT_ROOT
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
    given = ["bench=latency", "calibration.num_samples=3", "eval.limit=5"]
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
    given = [override, "variants=[w4a16,gptq]"]
    assert variants_of(*given) == [settings_of(*given, f"quant={quant}") for quant in ("w4a16", "gptq")]


def test_what_a_file_of_the_users_says_holds_for_every_variant(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nquant:\n  dampening: 0.05\n")
    given = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", "variants=[w4a16,gptq]"]
    assert [each.quant.dampening for each in variants_of(*given)] == [0.05, 0.05]


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as error:
        variants_of("variants=[bf16,fp9,awq+fp9]")
    assert "variants: fp9: " in str(error.value) and "variants: awq+fp9: " in str(error.value)
    with pytest.raises(ConfigError, match=r"protocols: nosuch"):
        variants_of("variants=[bf16]", "protocols=[quick,nosuch]")
