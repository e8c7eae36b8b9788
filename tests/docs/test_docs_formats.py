"""docs/formats.md names every format that there is, and its bits and bytes are those that the gate predicts."""

import json
import math
import re
import struct
from pathlib import Path

import pytest

from pipeline.config import PROJECT_ROOT
from pipeline.formats.schemes import ENGINES
from pipeline.hardware.vllm_kernels import TITLES
from pipeline.stages.verify.file_sizes import predicted
from tools.format_tables import TABLES, page

PAGE = (PROJECT_ROOT / "docs" / "formats.md").read_text()
ROWS = {name: (float(bits), float(gb)) for name, bits, gb in re.findall(r"\| `(\w+)` \| ([\d.]+) \| ([\d.]+) GB", PAGE)}
# Qwen3-8B: 36 layers, 32 heads and 8 of keys and values with 128 channels each.
WIDTH, INNER, VOCABULARY = 4096, 12288, 151936
LAYER = {
    "self_attn.q_proj": (4096, WIDTH),
    "self_attn.k_proj": (1024, WIDTH),
    "self_attn.v_proj": (1024, WIDTH),
    "self_attn.o_proj": (WIDTH, 4096),
    "mlp.gate_proj": (INNER, WIDTH),
    "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
    "input_layernorm": (WIDTH,),
    "post_attention_layernorm": (WIDTH,),
    "self_attn.q_norm": (128,),
    "self_attn.k_norm": (128,),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The header of Qwen3-8B's weights, without the weights."""
    folder = tmp_path_factory.mktemp("qwen3-8b")
    shapes = {f"model.layers.{n}.{name}.weight": shape for n in range(36) for name, shape in LAYER.items()}
    shapes |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (VOCABULARY, WIDTH))
    header, place = {}, 0
    for name, shape in {**shapes, "model.norm.weight": (WIDTH,)}.items():
        end = place + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [place, end]}
        place = end
    content = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 36, "tie_word_embeddings": False}))
    return folder


def test_every_format_has_its_row() -> None:
    # A mix takes what it is asked to take (docs/mixed.md).
    assert set(ROWS) | {"bf16", "mixed"} == {path.stem for path in (PROJECT_ROOT / "conf" / "quant").glob("*.yaml")}


@pytest.mark.parametrize("quant", ROWS)
def test_bits_and_bytes_are_the_gates(quant: str, source: Path, settings) -> None:
    bits, gb = ROWS[quant]
    found = predicted(source, settings(f"quant={quant}").quant, kv_scales=False)
    weights = 36 * sum(math.prod(shape) for name, shape in LAYER.items() if name.endswith("_proj"))
    stored = sum(size for name, size in found.items() if "_proj." in name)
    assert bits == pytest.approx(8 * stored / weights, abs=0.06)
    assert gb == pytest.approx(sum(found.values()) / 1e9, abs=0.006)


def test_every_engine_and_kernel_is_explained() -> None:
    assert [name for name in ENGINES if name != "none" and f"| `{name}` |" not in PAGE] == []
    assert [name for name in TITLES if f"`{name}`" not in PAGE] == []


def test_the_tables_are_those_of_the_code() -> None:
    assert page(PAGE) == PAGE, "make docs"
    assert [name for name in TABLES if f"<!-- table: {name} -->" not in PAGE] == []
