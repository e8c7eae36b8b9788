"""Each engine as its own README's example uses it, for `benchmarks/engines.py`; nothing of the project is imported.

    python benchmarks/by_hand.py <case> <model> <tokens.safetensors> <output folder>

Where an example loads a data set from the hub, it gets the sequences of the pipeline's run instead, in the engine's
format. Comments explain deviations from examples that do not run unchanged. Prints the wall time and the CPU time from
the start of loading the model to the written checkpoint, without imports, as a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Measured = dict[str, float]


def now() -> tuple[float, float]:
    """Return the wall time and the CPU time of this process."""
    return time.perf_counter(), time.process_time()


def since(started: tuple[float, float]) -> Measured:
    """Return wall and CPU seconds since `now`, and the peak memory of the process."""
    passed, used = (after - before for after, before in zip(now(), started, strict=True))
    return {"seconds": round(passed, 3), "cpu_seconds": round(used, 3), "mib": peak_mib()}


def peak_mib() -> float:
    """Return the peak resident memory of this program; `getrusage` may report that of its parent before the fork."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def sequences(tokens: Path) -> list[Any]:
    """Return the calibration's sequences, each of shape (length,)."""
    from safetensors.torch import load_file

    tensors = load_file(tokens)
    return [part.long() for part in tensors["input_ids"].split(tensors["lengths"].tolist())]


def llmcompressor(recipe: Callable[[], Any], with_data: bool) -> Callable[[str, Path, str], Measured]:
    """Run `oneshot` with a recipe."""

    def run(model_id: str, tokens: Path, output: str) -> Measured:
        import torch
        from datasets import Dataset
        from llmcompressor import oneshot
        from llmcompressor.pipelines.cache import IntermediatesCache
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not torch.accelerator.is_available():
            # Without an accelerator it stops at pinning memory for one (0.14.0.1).
            IntermediatesCache.pin_memory = lambda *_, **__: None
        made, found = recipe(), sequences(tokens)
        started = now()
        model = AutoModelForCausalLM.from_pretrained(model_id)
        tokenizer = AutoTokenizer.from_pretrained(model_id)
        data: dict[str, Any] = {}
        if with_data:
            rows = [{"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in found]
            data = {"dataset": Dataset.from_list(rows), "max_seq_length": 2048, "num_calibration_samples": len(rows)}
        oneshot(model=model, recipe=made, **data)
        model.save_pretrained(output, save_compressed=True)
        tokenizer.save_pretrained(output)
        return since(started)

    return run


def _fp8() -> Any:
    from llmcompressor.modifiers.quantization import QuantizationModifier

    return QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=["lm_head"])


def _gptq() -> Any:
    from llmcompressor.modifiers.gptq import GPTQModifier

    return GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"])


def _awq() -> Any:
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    return [AWQModifier(), QuantizationModifier(targets="Linear", scheme="W4A16_ASYM", ignore=["lm_head"])]


def autoawq(model_id: str, tokens: Path, output: str) -> Measured:
    """Run AutoAWQ, which joins its texts and cuts them into blocks of 512 tokens, dropping an incomplete last one."""
    from awq import AutoAWQForCausalLM
    from transformers import AutoTokenizer

    found = sequences(tokens)
    started = now()
    # Without a GPU the device must be set to the CPU.
    model = AutoAWQForCausalLM.from_pretrained(model_id, device_map="cpu")
    tokenizer = AutoTokenizer.from_pretrained(model_id)
    quant_config = {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}
    texts = [tokenizer.decode(ids[:500]) for ids in found]
    model.quantize(tokenizer, quant_config=quant_config, calib_data=texts, max_calib_samples=len(texts))
    model.save_quantized(output)
    tokenizer.save_pretrained(output)
    return since(started)


def gptqmodel(model_id: str, tokens: Path, output: str) -> Measured:
    """Run GPTQModel with threads for two cores, since it stops on two cores by default."""
    import os

    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig

    data = [{"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in sequences(tokens)]
    started = now()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPTQModel.load(model_id, QuantizeConfig(bits=4, group_size=128, device=device))
    model.quantize(data, batch_size=1)
    model.save(output)
    return since(started)


def autoround(model_id: str, tokens: Path, output: str) -> Measured:
    """Run AutoRound with samples of one length, which its batches require."""
    import torch
    from auto_round import AutoRound

    found = sequences(tokens)
    longest = max(len(ids) for ids in found)
    padded = [torch.nn.functional.pad(ids, (0, longest - len(ids)))[None] for ids in found]
    masks = [torch.nn.functional.pad(torch.ones_like(ids), (0, longest - len(ids)))[None] for ids in found]
    data = [{"input_ids": ids, "attention_mask": mask} for ids, mask in zip(padded, masks, strict=True)]
    started = now()
    rounding = AutoRound(model_id, scheme="W4A16", dataset=data, nsamples=len(data), seqlen=1)
    rounding.quantize_and_save(output_dir=output, format="auto_gptq")
    return since(started)


def bitsandbytes(model_id: str, tokens: Path, output: str) -> Measured:
    """Quantize to NF4 as in transformers' documentation."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    started = now()
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(model_id, quantization_config=config, device_map="auto")
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(model_id).save_pretrained(output)
    return since(started)


def gguf(model_id: str, tokens: Path, output: str) -> Measured:
    """Run AutoRound without optimized rounding and without data, which equals llama.cpp's quantization."""
    import gguf as library

    # Its converter names an architecture that the released gguf lacks; any value works.
    library.MODEL_ARCH.DFLASH = getattr(library.MODEL_ARCH, "DFLASH", library.MODEL_ARCH.QWEN3)
    from auto_round import AutoRound
    from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion

    # llama.cpp accepts only known tokenizers; the demo's is not among them.
    (architecture,) = json.loads(Path(model_id, "config.json").read_text())["architectures"]
    get_conversion(Path(model_id)).get_model_class(architecture).get_vocab_base_pre = lambda *_: "default"
    started = now()
    rounding = AutoRound(model_id, scheme="gguf:q4_k_m", iters=0, disable_opt_rtn=True)
    rounding.quantize_and_save(output_dir=output, format="gguf:q4_k_m")
    return since(started)


def autogptq(model_id: str, tokens: Path, output: str) -> Measured:
    """Run AutoGPTQ in its own environment; its README's `from_pretrained` requires CUDA and a known model."""
    import torch
    from auto_gptq import BaseQuantizeConfig
    from auto_gptq.modeling import _base
    from auto_gptq.modeling.qwen2 import Qwen2GPTQForCausalLM
    from transformers import AutoConfig, AutoModelForCausalLM

    class Qwen3GPTQForCausalLM(Qwen2GPTQForCausalLM):  # type: ignore[misc]
        layer_type = "Qwen3DecoderLayer"

    if not torch.cuda.is_available():
        _base.CUDA_0, torch.cuda.synchronize = torch.device("cpu"), lambda *_: None
    found = sequences(tokens)
    started = now()
    content = json.loads(Path(model_id, "config.json").read_text())
    content["rope_theta"] = (content.pop("rope_parameters", None) or {}).get("rope_theta", 10000.0)
    config = AutoConfig.for_model(**content)
    loaded = AutoModelForCausalLM.from_pretrained(model_id, config=config, torch_dtype=torch.float16).eval()
    model = Qwen3GPTQForCausalLM(loaded, False, BaseQuantizeConfig(bits=4, group_size=128, desc_act=False))
    model.quantize([{"input_ids": ids[None], "attention_mask": torch.ones_like(ids[None])} for ids in found])
    model.save_quantized(output, use_safetensors=True)
    return since(started)


CASES: dict[str, Callable[[str, Path, str], Measured]] = {
    "fp8_dynamic": llmcompressor(_fp8, with_data=False),
    "gptq": llmcompressor(_gptq, with_data=True),
    "awq": llmcompressor(_awq, with_data=True),
    "awq_autoawq": autoawq,
    "gptq_int4": gptqmodel,
    "gptq_autoround": autoround,
    "bnb_nf4": bitsandbytes,
    "gguf_q4_k_m": gguf,
    "gptq_autogptq": autogptq,
}


def main() -> None:
    """Run one case."""
    case, model, tokens, output = sys.argv[1:]
    channel = sys.stdout
    sys.stdout = sys.stderr
    print(json.dumps(CASES[case](model, Path(tokens), output)), file=channel, flush=True)


if __name__ == "__main__":
    main()
