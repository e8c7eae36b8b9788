"""What is read in a server's log: lines in vLLM's own words and layout, of every way that a layer finds its kernel."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import NotApplicable, ServerError
from pipeline.serve import server_log
from pipeline.serve.server import Server

PREFIX = "(EngineCore pid=4711) INFO 11-25 03:04:05 [__init__.py:759] "
# The formats are vLLM's, each with its file below vllm/.
COMPRESSED = "Using %s for CompressedTensorsWNA16"  # .../compressed_tensors/schemes/compressed_tensors_wNa16.py
GPTQ = "Using %s for AutoGPTQLinearMethod"  # .../quantization/auto_gptq.py
AWQ = "Using %s for AutoAWQMarlinLinearMethod"  # .../quantization/auto_awq.py
MIXED = "Using %s for mixed-precision linear"  # .../kernels/linear/__init__.py, from 0.32 on
SCALED = "Selected %s for %s"  # the same, for FP8 and INT8
NVFP4, MXFP4 = "Using %s for NVFP4 GEMM", "Using %s for MXFP4 GEMM"  # the same
WEIGHTS_ONLY = (  # .../quantization/utils/marlin_utils_fp8.py; no kernel is named for these layers
    "Your GPU does not have native support for FP8 computation but FP8 quantization is being used. Weight-only FP8 "
    "compression will be used leveraging the Marlin kernel. This may degrade performance for compute-heavy workloads."
)
FALLBACK = (  # .../quantization/auto_awq.py
    "Layer '%s' is not supported by AutoAWQMarlin. Falling back to unoptimized AWQ kernels."
)
ENGINE = "Initializing a V1 LLM engine (v0.32.0) with config: model='/m', dtype=torch.bfloat16, quantization=%s, seed=0"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (COMPRESSED % "MacheteLinearKernel", ["MacheteLinearKernel"]),
        (COMPRESSED % "CPUWNA16LinearKernel", ["CPUWNA16LinearKernel"]),
        (GPTQ % "MarlinLinearKernel", ["MarlinLinearKernel"]),
        (GPTQ % "AllSparkLinearKernel", ["AllSparkLinearKernel"]),
        (AWQ % "MarlinLinearKernel", ["MarlinLinearKernel"]),
        (MIXED % "TritonW4A16LinearKernel", ["TritonW4A16LinearKernel"]),
        (SCALED % ("CutlassFP8ScaledMMLinearKernel", "CompressedTensorsW8A8Fp8"), ["CutlassFP8ScaledMMLinearKernel"]),
        (
            SCALED % ("CutlassInt8ScaledMMLinearKernel", "CompressedTensorsW8A8Int8"),
            ["CutlassInt8ScaledMMLinearKernel"],
        ),
        (SCALED % ("EmulatedFp8LinearKernel", "CompressedTensorsW8A8Fp8"), ["EmulatedFp8LinearKernel"]),
        (NVFP4 % "FlashInferCutlassNvFp4LinearKernel", ["FlashInferCutlassNvFp4LinearKernel"]),
        (MXFP4 % "MarlinMxFp4LinearKernel", ["MarlinMxFp4LinearKernel"]),
        (WEIGHTS_ONLY, ["MarlinFP8ScaledMMLinearKernel"]),
        (FALLBACK % "model.layers.0.mlp.down_proj", ["AWQ"]),
        (ENGINE % "gguf", ["GGUF"]),
        (ENGINE % "bitsandbytes", ["bitsandbytes"]),
        (ENGINE % "compressed-tensors", []),
        # vLLM 0.9.2, which the study used: .../gptq_marlin.py, .../awq_marlin.py, .../scaled_mm/
        ("Using MarlinLinearKernel for GPTQMarlinLinearMethod", ["MarlinLinearKernel"]),
        ("Using CutlassScaledMMLinearKernel for CompressedTensorsW8A8Int8", ["CutlassScaledMMLinearKernel"]),
        # Nothing of a layer's.
        ("Using FlashInfer for top-p & top-k sampling.", []),
        ("Using 'TRITON' Fp8 MoE backend out of potential backends: ['TRITON'].", []),
        ("Tried to force MarlinLinearKernel, but the kernel couldn't be implemented", []),
    ],
)
def test_kernels_of_every_path(line: str, found: list[str]) -> None:
    assert server_log.kernels(f"before\n{PREFIX}{line}\nafter") == found


def test_each_kernel_is_named_once_and_all_are() -> None:
    lines = [COMPRESSED % "MarlinLinearKernel", MIXED % "MarlinLinearKernel", COMPRESSED % "MacheteLinearKernel"]
    assert server_log.kernels("\n".join(PREFIX + line for line in lines)) == [
        "MacheteLinearKernel",
        "MarlinLinearKernel",
    ]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        # vllm/platforms/cuda.py and vllm/v1/attention/backends/flash_attn.py
        (
            (
                "Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN', 'FLASHINFER'].",
                "Using FlashAttention version 3",
            ),
            "FLASH_ATTN 3",
        ),
        (
            ("Using FLASHINFER attention backend out of potential backends: ['FLASHINFER', 'TRITON_ATTN'].",),
            "FLASHINFER",
        ),
        (("Using AttentionBackendEnum.TRITON_ATTN backend.",), "TRITON_ATTN"),
        (("Using Flash Attention backend on V1 engine.",), "Flash Attention"),
        (("Using CUTLASS Fp8 MoE backend out of potential backends: ['CUTLASS'].",), None),
        (("Using 'HND' KV cache layout for FLASHINFER backend.", "Using backend FLASH_ATTN for vit attention"), None),
        (("nothing",), None),
    ],
)
def test_attention(lines: tuple[str, ...], found: str | None) -> None:
    assert server_log.attention("\n".join(PREFIX + line for line in lines)) == found


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        ("GPU KV cache size: 1,234,560 tokens", 1234560),  # 0.26, vllm/v1/core/kv_cache_utils.py
        ("CPU KV cache size: 29,120 tokens, Maximum concurrency for 2,048 tokens per request: 14.22x", 29120),  # 0.32
        ("effective KV cache size as before", None),
    ],
)
def test_tokens_that_fit(line: str, tokens: int | None) -> None:
    assert server_log.kv_cache_tokens(PREFIX + line) == tokens


def test_how_far_a_start_is(tmp_path) -> None:
    path = tmp_path / "serve.log"
    assert server_log.doing(server_log.read(path)) == "starting vLLM"
    assert server_log.tail(path) == "(no log)"
    path.write_text(f"{PREFIX}Starting to load model /m...\n\n{PREFIX}Loading weights took 0.02 seconds\n")
    assert server_log.doing(server_log.read(path)) == "preparing the engine"
    assert server_log.tail(path, 1).strip().endswith("took 0.02 seconds")


def test_why_an_engine_did_not_start_is_found_in_the_middle_of_its_log(tmp_path) -> None:
    path = tmp_path / "serve.log"
    path.write_text(
        "ModuleNotFoundError: No module named 'triton'\n"
        "(EngineCore pid=7) ERROR 11-27 22:16:02 [core.py:1510]     raise ValueError(\n"
        "(EngineCore pid=7) ERROR 11-27 22:16:02 [core.py:1510] ValueError: To serve at least one request with the "
        "model's max seq len (40960), 4.38 GiB KV cache is needed.\n"
        "(APIServer pid=5) RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert server_log.cause(path).startswith(
        "ValueError: To serve at least one request with the model's max seq len (40960)"
    )
    path.write_text("(APIServer pid=5) INFO 11-27 22:16:02 [x.py:1] ready\n")
    assert server_log.cause(path) == server_log.cause(tmp_path / "none.log") == ""


def test_progress_bars_say_how_much_is_done(tmp_path) -> None:
    path = tmp_path / "serve.log"
    shards = "\rLoading safetensors checkpoint shards:  {}% Completed | {}/5 [00:01<00:02,  1.2it/s]"
    path.write_text(f"{PREFIX}Starting to load model /m...\n{shards.format(20, 1)}{shards.format(60, 3)}")
    assert server_log.doing(server_log.read(path)) == "loading the weights, 60 %"
    bars = "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  40%|####      | 27/67 [00:02<00:03]"
    path.write_text(f"{path.read_text()}\n{PREFIX}GPU KV cache size: 692,224 tokens\n{bars}")
    assert server_log.doing(server_log.read(path)) == "warming up, 40 %"


INSPECTED = """
(APIServer pid=7) ERROR 11-29 22:37:14 [registry.py:1120] Error in inspecting model architecture 'Gemma3'
(APIServer pid=7) ERROR 11-29 22:37:14 [registry.py:1120] RuntimeError: Error raised in subprocess:
(APIServer pid=7) ERROR 11-29 22:37:14 [registry.py:1120] ModuleNotFoundError: No module named 'triton'
(APIServer pid=7) ERROR 11-29 22:37:14 [registry.py:1120]     from torchvision.transforms.v2 import functional as tvF
(APIServer pid=7) ERROR 11-29 22:37:14 [registry.py:1120] %s
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
"""


def test_an_import_that_a_models_code_fails_with_is_its_last_exception() -> None:
    """A plugin's failure before it is none of the model's."""
    said = "No module named 'torchvision'"
    assert server_log.missing_import(INSPECTED % f"ModuleNotFoundError: {said}") == said
    assert server_log.missing_import(INSPECTED % "ValueError: not supported") == ""
    assert server_log.missing_import("ModuleNotFoundError: No module named 'triton'") == ""


def test_a_server_that_cannot_import_an_architecture_makes_its_variant_not_applicable(tmp_path: Path) -> None:
    log, launcher = tmp_path / "serve.log", SimpleNamespace(exit_code=lambda _: 1)
    server = Server(launcher, 7, "http://127.0.0.1:1", log, tmp_path, [])  # type: ignore[arg-type]
    log.write_text(INSPECTED % "ModuleNotFoundError: No module named 'torchvision'")
    with pytest.raises(NotApplicable, match=r"cannot import .*No module named 'torchvision'.*serve\.python"):
        server.check_alive()
    log.write_text("killed")
    with pytest.raises(ServerError, match="exited with code 1"):
        server.check_alive()
