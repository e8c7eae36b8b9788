"""llama.cpp's files: names, places and ends of their tensors."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.formats import unpack_gguf


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
        ("rope_freqs.weight", "rope_freqs.weight"),
        ("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"),
        ("blk.17.ffn_down.weight", "model.layers.17.mlp.down_proj.weight"),
        ("blk.3.attn_q.bias", "model.layers.3.self_attn.q_proj.bias"),
        # What no dense decoder of transformers has keeps its name.
        ("blk.3.ssm_in.weight", "blk.3.ssm_in.weight"),
        ("blk.3.ffn_gate_exps.weight", "blk.3.ffn_gate_exps.weight"),
    ],
)
def test_llama_cpps_names_are_those_of_the_bf16_checkpoint(theirs: str, ours: str) -> None:
    assert unpack_gguf.original_name(theirs) == ours


def test_a_gguf_files_tensors_lie_one_after_another_and_end_where_it_does(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path, rows = tmp_path / "model.gguf", 4
    writer = gguf.GGUFWriter(path, "llama")
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        writer.add_tensor(name, np.zeros((rows, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = unpack_gguf.headers(path)
    assert set(found) == {"model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"}
    (first, middle), (second, end) = sorted(item["data_offsets"] for item in found.values())
    assert (middle - first, end - second) == (4 * rows * 64, 4 * rows * 64)
    assert (middle, end) == (second, path.stat().st_size)
    unpack_gguf.check(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated"):
        unpack_gguf.check(path)
