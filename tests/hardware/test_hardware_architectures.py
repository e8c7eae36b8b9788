"""Architectures are read from all of vLLM's tables, without importing it."""

import subprocess
import sys

import pytest

from pipeline.hardware.architectures import decoder_types, parse, registry, types_in

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


def test_neither_vllm_nor_transformers_is_imported() -> None:
    code = (
        "import sys; from pipeline.hardware.architectures import decoder_types, registry; assert registry().decoders; "
        "assert decoder_types(); assert not {'vllm', 'transformers'} & sys.modules.keys()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LOADED = """
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict([("a", "AForCausalLM"), ("b", ("B1", "B2"))])
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES = OrderedDict([("c", "CForConditionalGeneration")])
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES = OrderedDict(
    [*list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()), ("d", "DForConditionalGeneration")]
)
MODEL_FOR_MASKED_LM_MAPPING_NAMES = OrderedDict([("bert", "BertForMaskedLM")])
"""


def test_types_that_transformers_loads_as_decoders_are_read_from_its_tables() -> None:
    assert {"a", "b", "c", "d"} <= types_in(LOADED)
    assert "bert" not in types_in(LOADED)
    assert {"llama", "gemma3", "gemma3_text", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_next"} <= decoder_types()
    assert not {"mine", "detr"} & decoder_types()
