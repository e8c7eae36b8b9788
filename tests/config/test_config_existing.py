"""A checkpoint that others quantized is a variant by its repository or folder."""

import pytest
from support.settings import variants_of

from pipeline.config import ExistingSettings, Variant
from pipeline.config.quant import own_format
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "quant", "kv_cache", "kernel"),
    [
        ("hub:RedHatAI/Qwen3-8B-FP8-dynamic", "hub:RedHatAI/Qwen3-8B-FP8-dynamic", "auto", "auto"),
        ("hub:a/b(revision=abc)+fp8_e4m3@marlin", "hub:a/b(revision=abc)", "fp8_e4m3", "marlin"),
        ("folder:/data/a+b/c@1", "folder:/data/a+b/c@1", "auto", "auto"),
        ("folder:/data/new (old)@cutlass", "folder:/data/new (old)", "auto", "cutlass"),
    ],
)
def test_a_repository_or_a_folder_is_a_variant(text: str, quant: str, kv_cache: str, kernel: str) -> None:
    variant = Variant.parse(text)
    assert (variant.quant, variant.kv_cache, variant.kernel) == (quant, kv_cache, kernel)
    assert str(variant) == text


@pytest.mark.parametrize(
    ("quant", "own"),
    [
        ({"engine": "llmcompressor"}, ""),
        ({"engine": "gptqmodel"}, "gptqmodel"),
        ({"engine": "existing", "stored_as": "pack-quantized"}, ""),
        ({"engine": "existing", "stored_as": "awq"}, "awq"),
        # Until the checkpoint is read.
        ({"engine": "existing", "stored_as": ""}, ""),
    ],
)
def test_the_format_of_a_checkpoint_is_its_engines_own_or_that_of_compressed_tensors(quant: dict, own: str) -> None:
    assert own_format(quant) == own


def test_it_stands_beside_formats_and_takes_none_of_their_settings() -> None:
    first, theirs = variants_of(
        "add_bf16=false", "variants=[w4a16,'hub:RedHatAI/Qwen3-8B-FP8-dynamic(revision=abc)']", "quant.group_size=64"
    )
    assert first.quant.group_size == 64
    assert isinstance(theirs.quant, ExistingSettings)
    assert (theirs.quant.checkpoint, theirs.quant.revision) == ("hub:RedHatAI/Qwen3-8B-FP8-dynamic", "abc")
    assert theirs.quant.group_size is None
    assert theirs.quant.title == "RedHatAI/Qwen3-8B-FP8-dynamic"
    assert not theirs.needs_calibration
    assert not theirs.is_baseline


def test_its_kernel_is_asked_for_before_its_format_is_known() -> None:
    (theirs,) = variants_of("add_bf16=false", "variants=[folder:/data/checkpoint@marlin]")
    assert theirs.serve.kernel == "marlin"
    assert theirs.quant.title == "checkpoint"


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("hub:no-owner", "write hub:<owner>/<name> or folder:<path>"),
        ("'hub:a/b(group_size=64)'", "others made this checkpoint"),
        ("'folder:/data/x(revision=abc)'", "others made this checkpoint"),
    ],
)
def test_what_cannot_be_one_is_refused_by_name(variant: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        variants_of(f"variants=[bf16,{variant}]")
