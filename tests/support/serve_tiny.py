"""Runs in a process of its own, as vLLM: loads the plugin by its entry point and reports in JSON.

Usage: python serve_tiny.py <request.json> <answer.json>
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_NO_USAGE_STATS="1",
    HF_HUB_OFFLINE="1",
    PIPELINE_EMULATE_KV_CACHE="always",
)


def kernels() -> dict[str, Any]:
    """Check the pieces that need vLLM's library, and say how it selects kernels."""
    import torch
    from vllm import _custom_ops as ops
    from vllm.model_executor.kernels import linear
    from vllm.platforms import PlatformEnum
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    from pipeline.serve.vllm_plugin import products, register
    from pipeline.serve.vllm_plugin.int8_linear import OneDnnInt8LinearKernel, native_product_is_exact
    from pipeline.serve.vllm_plugin.weight_only_linear import native_kernel_missing

    register()
    names = {
        kind: [k.__name__ for k in possible[PlatformEnum.CPU]]
        for kind, possible in (
            ("fp8", linear._POSSIBLE_FP8_KERNELS),
            ("int8", linear._POSSIBLE_INT8_KERNELS),
            ("weight_only", linear._POSSIBLE_KERNELS),
        )
    }

    torch.manual_seed(0)
    x = torch.randn(9, 64) * 3
    scale = torch.tensor([0.01])
    static, _ = ops.scaled_fp8_quant(x, scale)
    expected = (x * scale.reciprocal()).clamp(-448, 448).to(torch.float8_e4m3fn)
    quantize_op = bool((static.to(torch.float32) == expected.to(torch.float32)).all())

    given_to_onednn = {}
    for dtype in (torch.bfloat16, torch.float32):
        for static in (True, False):
            config = linear.Int8ScaledMMLinearLayerConfig(
                is_static_input_scheme=static, is_channelwise=True, input_symmetric=True
            )
            torch.set_default_dtype(dtype)
            accepted, _ = OneDnnInt8LinearKernel.can_implement(config)
            torch.set_default_dtype(torch.float32)
            given_to_onednn[f"{dtype} {'static' if static else 'dynamic'}"] = accepted

    errors = {}
    operand = torch.randint(-127, 128, (17, 96)).to(torch.bfloat16)
    weight = torch.randint(-127, 128, (48, 96)).to(torch.bfloat16)
    exact = operand.double() @ weight.double().t()
    for dtype in (torch.bfloat16, torch.float32):
        product = products.ExactProduct(weight, dtype)
        error = (product(operand).double() - exact).abs() / exact.abs().clamp(min=1)
        roundoff = 2.0**-8 if product.dtype == torch.bfloat16 else 0.0
        errors[str(dtype)] = error.max().item() <= roundoff
    bias = torch.randn(48).to(torch.bfloat16)
    dense = products.dense(weight)(operand, bias).double()
    errors["dense"] = bool(((dense - exact - bias.double()).abs() <= 2.0**-7 * (exact.abs() + 4)).all())
    return {
        "names": names,
        "quantize_op": quantize_op,
        "products": errors,
        "int8_native": native_product_is_exact(),
        "given_to_onednn": given_to_onednn,
        "weight_only_native": not native_kernel_missing(),
    }


def serve(
    checkpoint: str, dtype: str, prompts: list[list[int]], kv_cache: str = "auto", kernel: str = "auto"
) -> list[float]:
    """Return the log-probability of each prompt token but the first."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        checkpoint,
        dtype=dtype,
        kv_cache_dtype=kv_cache,
        linear_backend=kernel,
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=4,
        enable_prefix_caching=False,
        distributed_executor_backend="uni",
    )
    sampling = SamplingParams(max_tokens=2, temperature=0, prompt_logprobs=0, detokenize=False)
    outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)
    return [
        at[token].logprob
        for output, prompt in zip(outputs, prompts, strict=True)
        for at, token in zip(output.prompt_logprobs[1:], prompt[1:], strict=True)
    ]


if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text())
    answer: dict[str, Any] = {"kernels": kernels(), "emulated": {}, "refused": {}}
    from pipeline.serve.server_log import emulated
    from pipeline.serve.vllm_plugin import announce

    for job in request["jobs"]:
        name = job.pop("name")
        announce._logged.clear()
        try:
            answer[name] = serve(prompts=request["prompts"], **job)
        except Exception as error:
            answer["refused"][name] = f"{type(error).__name__}: {error}"
        answer["emulated"][name] = emulated("\n".join(announce._logged))
    Path(sys.argv[2]).write_text(json.dumps(answer))
