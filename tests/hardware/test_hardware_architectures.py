"""Architectures are read from all of vLLM's tables, without importing it."""

import subprocess
import sys

import pytest

from pipeline.hardware.architectures import parse, registry

SOURCE = """
_TEXT_GENERATION_MODELS = {"AForCausalLM": ("a", "AForCausalLM")}
_EMBEDDING_MODELS = {"AModel": ("a", "AModel"), "AForCausalLM": ("a", "AForCausalLM")}
_NEWER_MODELS: dict = {"BForCausalLM": ("transformers", "TransformersForCausalLM")}
_NOT_MERGED = {"CForCausalLM": ("c", "C")}
_VLLM_MODELS = {**_TEXT_GENERATION_MODELS, **_EMBEDDING_MODELS, **_NEWER_MODELS}
_PREVIOUSLY_SUPPORTED_MODELS = {"OldForCausalLM": "0.9.2"}
_OOT_SUPPORTED_MODELS = {"PluginModel": "https://example.org/plugin"}
"""


def test_every_table_that_vllm_merges_counts() -> None:
    found = parse(SOURCE)
    assert found.decoders == {"AForCausalLM", "BForCausalLM"}
    assert found.others == {"AModel": "an embedding model"}
    assert "0.9.2" in found.former["OldForCausalLM"]
    assert "https://example.org/plugin" in found.former["PluginModel"]


@pytest.mark.parametrize(
    "name",
    [
        "Qwen3ForCausalLM", "LlamaForCausalLM", "Gemma3ForConditionalGeneration", "Olmo2ForCausalLM",
        "SmolLM3ForCausalLM", "Starcoder2ForCausalLM", "GPTNeoXForCausalLM", "GlmForCausalLM", "PhiForCausalLM",
    ],
)  # fmt: skip
def test_the_installed_vllm_serves_it(name: str) -> None:
    assert name in registry().decoders


def test_what_writes_no_text_is_known_by_its_kind() -> None:
    assert registry().others["BertModel"] == "an embedding model"
    assert not set(registry().others) & registry().decoders


def test_vllm_is_not_imported() -> None:
    code = (
        "import sys; from pipeline.hardware.architectures import registry; assert registry().decoders; "
        "assert 'vllm' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
