"""What a checkpoint of a mix says of its modules: the choice beside its weights, and the groups of its config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.settings import settings_of

from pipeline.errors import InputError
from pipeline.models.activations import activation_scheme
from pipeline.models.headers import by_module, layout_name, packed_bits
from pipeline.models.mix import FILE, chosen, formats

INPUTS = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": True}
FOUR = {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64}, "format": "pack-quantized"}
EIGHT = {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}, "format": "int-quantized"}
GROUPS = {
    "group_0": {**EIGHT, "targets": ["model.layers.0.mlp.up_proj", "re:.*o_proj"], "input_activations": INPUTS},
    "group_1": {**FOUR, "targets": ["Linear"], "input_activations": None},
}
CONFIG = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": GROUPS}


@pytest.mark.parametrize(
    ("module", "layout", "bits", "inputs"),
    [
        ("model.layers.0.mlp.up_proj", "int-quantized", 8, INPUTS),
        ("model.layers.3.self_attn.o_proj", "int-quantized", 8, INPUTS),
        ("model.layers.1.mlp.up_proj", "pack-quantized", 4, None),
    ],
)
def test_a_module_is_described_by_the_group_that_names_it(module, layout, bits, inputs) -> None:
    own = by_module(CONFIG)(module)
    assert (layout_name(own), packed_bits(own), activation_scheme(own)) == (layout, bits, inputs)
    assert own["quant_method"] == "compressed-tensors"


def test_one_group_describes_every_module() -> None:
    config = {**CONFIG, "format": "int-quantized", "config_groups": {"group_0": GROUPS["group_0"]}}
    assert by_module(config)("whatever") is config
    assert by_module({})("whatever") == {}


def test_a_module_that_no_group_names_has_none() -> None:
    named = {"a": {**EIGHT, "targets": ["one"]}, "b": {**FOUR, "targets": ["two"]}}
    assert by_module({**CONFIG, "config_groups": named})("three")["config_groups"] == {}


def write(folder: Path, *groups: tuple[str, list[str]]) -> Path:
    content = {"groups": [{"format": name, "modules": modules} for name, modules in groups]}
    (folder / FILE).write_text(json.dumps(content))
    return folder


def test_the_choice_is_read_beside_the_weights(tmp_path: Path) -> None:
    folder = write(tmp_path, ("W4A16", ["a", "b"]), ("BF16", ["c"]), ("W8A8", ["d"]))
    assert formats(folder) == {"a": "W4A16", "b": "W4A16", "c": "BF16", "d": "W8A8"}
    quant = chosen(settings_of("quant=mixed").quant, folder)
    assert quant.formats == {"a": "W4A16", "b": "W4A16", "d": "W8A8"}
    assert quant.ignore == ("lm_head", "c")


@pytest.mark.parametrize("content", ["", "{}", '{"groups": [{"format": "W4A16"}]}', '{"groups": 3}', '{"groups": [3]}'])
def test_a_choice_that_cannot_be_read_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match=r"mix\.json"):
        formats(tmp_path)


def test_a_format_of_another_release_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="W3A16, a format that is not known"):
        formats(write(tmp_path, ("W3A16", ["a"])))
