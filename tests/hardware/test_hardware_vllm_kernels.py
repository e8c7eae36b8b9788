"""The table of kernels says what the sources of the installed vLLM say."""

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.formats.schemes import SCHEMES
from pipeline.hardware import rules
from pipeline.hardware.gpus import GPUS
from pipeline.hardware.vllm_kernels import KERNELS, TITLES, choices, is_asked_for, is_logged
from pipeline.serve.support import of_settings

BY_KEY = {gpu.key: gpu for gpu in GPUS}
# Scheme -> vLLM's list of kernels in its order of preference; below 8.9 that of FP8 weights with 16-bit products.
LISTS = {
    "FP8": "_POSSIBLE_FP8_KERNELS",
    "FP8_DYNAMIC": "_POSSIBLE_FP8_KERNELS",
    "FP8_BLOCK": "_POSSIBLE_FP8_BLOCK_KERNELS",
    "W8A8": "_POSSIBLE_INT8_KERNELS",
    "W8A8_STATIC": "_POSSIBLE_INT8_KERNELS",
    "W4AFP8": "_POSSIBLE_KERNELS",
    "W4A16": "_POSSIBLE_KERNELS",
    "W4A16_ASYM": "_POSSIBLE_KERNELS",
    "W8A16": "_POSSIBLE_KERNELS",
    "NVFP4": "_POSSIBLE_NVFP4_KERNELS",
    "NVFP4A16": "_POSSIBLE_NVFP4_KERNELS",
    "MXFP8": "_POSSIBLE_MXFP8_KERNELS",
    "MXFP4": "_POSSIBLE_MXFP4_KERNELS",
}


@pytest.fixture(scope="module")
def linear() -> Path:
    """The folder of vLLM's linear kernels, of the release that the table was last read in; nothing is imported."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    from pipeline.hardware.installed import packages

    if rules.Vllm.of(packages(None)).release != rules.LOCKED.release:
        pytest.skip("another vLLM than the one that the table was read in")
    return Path(spec.submodule_search_locations[0], "model_executor", "kernels", "linear")


def dicts(path: Path) -> dict[str, dict[str, list[str]]]:
    """The literal dicts of a module: of classes, by the last name of their key."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict) and isinstance(node.target, ast.Name):
            found[node.target.id] = {
                key.value if isinstance(key, ast.Constant) else key.attr: [item.id for item in value.elts]
                for key, value in zip(node.value.keys, node.value.values, strict=True)
                if isinstance(key, ast.Constant | ast.Attribute) and isinstance(value, ast.List | ast.Set)
            }
    return found


def test_what_can_be_asked_for_is_what_vllm_maps(linear: Path) -> None:
    backends = dicts(linear / "__init__.py")["_LINEAR_BACKEND_KERNEL_MAP"]
    for kernels in KERNELS.values():
        for kernel in kernels:
            assert not kernel.choice or kernel.name in backends[kernel.choice], kernel


@pytest.fixture(scope="module")
def prioritized(linear: Path) -> Callable[[list[str], float], list[str]]:
    """vLLM's own function that moves Humming before Marlin, which imports nothing of vLLM."""
    path = linear.parents[1] / "layers" / "quantization" / "utils" / "humming" / "priority.py"
    spec = importlib.util.spec_from_file_location("priority", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def order(names: list[str], capability: float) -> list[str]:
        classes = [type(name, (), {}) for name in names]
        return [each.__name__ for each in module.prioritize_humming(classes, round(10 * capability))]

    return order


@pytest.mark.parametrize("capability", sorted({gpu.compute_capability for gpu in GPUS}))
@pytest.mark.parametrize("scheme", LISTS)
def test_the_order_of_preference_is_vllms(
    scheme: str, capability: float, linear: Path, prioritized: Callable[[list[str], float], list[str]]
) -> None:
    unpacked = scheme.startswith("FP8") and capability < 8.9
    literal = dicts(linear / "__init__.py")["_POSSIBLE_WFP8A16_KERNELS" if unpacked else LISTS[scheme]]["CUDA"]
    order = prioritized(literal, capability)
    here = [kernel for kernel in KERNELS[scheme] if kernel.automatic and kernel.since <= capability < kernel.below]
    places = [order.index(name) for name in dict.fromkeys(kernel.name for kernel in here)]
    assert places == sorted(places)


def test_humming_comes_first_on_hopper_where_it_is_installed() -> None:
    h200, l4 = BY_KEY["h200"], BY_KEY["l4"]
    without = rules.Vllm(rules.LOCKED.release, rules.LOCKED.packages - {"humming-kernels"})
    older = rules.Vllm((0, 26), rules.LOCKED.packages)
    for scheme in ("NVFP4", "NVFP4A16", "MXFP4", "MXFP8"):
        assert rules.of_scheme(scheme, h200).by == "Humming"
        assert rules.of_scheme(scheme, h200, without).by == "Marlin"
        assert rules.of_scheme(scheme, h200, older).by == "Marlin"
        assert rules.of_scheme(scheme, l4).by == "Marlin"
        asked = rules.ServingRequest("humming")
        assert rules.of_scheme(scheme, l4, asked=asked).by == "Humming"
        assert "needs the package humming-kernels" in rules.of_scheme(scheme, l4, without, asked).reason


def test_least_capabilities_are_vllms(linear: Path) -> None:
    stated = {}
    for path in (linear / "mixed_precision").glob("*.py"):
        classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
        for node in classes:
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "get_min_capability":
                    answer = item.body[-1]
                    if isinstance(answer, ast.Return) and isinstance(answer.value, ast.Constant):
                        stated[node.name] = answer.value.value / 10
    for scheme in ("W4AFP8", "W4A16", "W4A16_ASYM", "W8A16"):
        for name in {kernel.name for kernel in KERNELS[scheme]}:
            # The least of the quantization methods, whatever the kernel says.
            least = max(stated[name], 9.0 if scheme == "W4AFP8" else 7.5)
            assert min(kernel.since for kernel in KERNELS[scheme] if kernel.name == name) == least, name


def test_multiples_of_shapes_are_vllms(linear: Path) -> None:
    """By the sources' own numbers: Machete's blocks, the 128 of CUTLASS's W4A8, the 8 integers of an int32."""
    sources = {path.stem: path.read_text() for path in (linear / "mixed_precision").glob("*.py")}
    machete = (linear.parents[1] / "layers" / "quantization" / "utils" / "machete_utils.py").read_text()
    deep_gemm = (linear.parents[2] / "utils" / "deep_gemm.py").read_text()
    flashinfer = (linear / "mxfp8" / "flashinfer.py").read_text()
    stated = {
        "MacheteLinearKernel": (64, 128, "MACHETE_PREPACKED_BLOCK_SHAPE = [64, 128]" in machete),
        "CutlassW4A8LinearKernel": (128, 128, "in_features % 128 or out_features % 128" in sources["cutlass"]),
        "TritonW4A16LinearKernel": (1, 8, "N % 8 != 0" in sources["triton_w4a16"]),
        "ExllamaLinearKernel": (1, 8, "[1] % (32 // c.weight_type.size_bits) != 0" in sources["exllama"]),
        "DeepGemmFp8BlockScaledMMKernel": (128, 64, "N_MULTIPLE = 64\n    K_MULTIPLE = 128\n" in deep_gemm),
        "FlashInferTrtllmMxfp8LinearKernel": (256, 1, "if K % 256 != 0:" in flashinfer),
        # Pads.
        "MarlinLinearKernel": (1, 1, "marlin_padded_nk" in sources["marlin"]),
    }
    for kernels in KERNELS.values():
        for kernel in kernels:
            if kernel.name in stated:
                assert (kernel.inputs, kernel.outputs, True) == stated[kernel.name], kernel


def test_every_kernel_that_the_log_does_not_name_is_known(linear: Path) -> None:
    """Only Humming on FP8 weights without FP8 products: that scheme is the one that gives no name to log."""
    schemes = linear.parents[1] / "layers" / "quantization" / "compressed_tensors" / "schemes"
    for name, names_its_module in (("w8a8_fp8", True), ("w8a16_fp8", False)):
        assert ("module_name=" in (schemes / f"compressed_tensors_{name}.py").read_text()) == names_its_module
    for scheme in ("FP8", "FP8_DYNAMIC", "FP8_BLOCK"):
        assert not is_logged(scheme, "humming", 8.0)
        assert is_logged(scheme, "marlin", 8.0)
        assert is_logged(scheme, "humming", 9.0)
    assert is_logged("W4A16", "humming", 8.0)
    assert is_logged(None, "auto", None)


def test_every_scheme_has_kernels_and_every_choice_a_title() -> None:
    assert set(KERNELS) == set(SCHEMES)
    assert {choice for scheme in SCHEMES for choice in choices(scheme)} == set(TITLES)


def test_a_logged_kernel_is_known_for_the_choice_that_asks_for_it() -> None:
    assert is_asked_for("MarlinNvFp4LinearKernel", "marlin")
    assert is_asked_for("MacheteLinearKernel", "machete")
    assert is_asked_for("HummingMxFp4LinearKernel", "humming")
    assert not is_asked_for("MarlinLinearKernel", "machete")
    assert not is_asked_for("CPUWNA16LinearKernel", "marlin")


@pytest.mark.parametrize(
    ("overrides", "gpu", "support", "said"),
    [
        (("quant=awq", "serve.kernel=machete"), "h100_sxm", "native", "Machete"),
        (("quant=awq", "serve.kernel=machete"), "a100_80gb_sxm", "no", "Machete needs compute capability 9.0"),
        (("quant=awq", "serve.kernel=machete"), "b200", "no", "exists below compute capability 10.0"),
        (("quant=w4a16", "quant.group_size=32"), "h100_sxm", "native", "Humming"),
        (("quant=w4a16", "quant.group_size=32", "serve.kernel=marlin"), "h100_sxm", "native", "Marlin"),
        (("quant=w4a16", "quant.group_size=32"), "l40s", "native", "Marlin"),
        (("quant=fp8_dynamic",), "a100_80gb_sxm", "native", "Humming"),
        (("quant=fp8_block", "serve.kernel=deep_gemm"), "b200", "native", "DeepGEMM"),
        (("quant=fp8_block", "serve.kernel=deep_gemm"), "l40s", "no", "DeepGEMM needs compute capability 9.0"),
        (("quant=w4a16", "quant.group_size=32", "serve.kernel=machete"), "h100_sxm", "no", "not of 32"),
        (("quant=w4a16", "serve.kernel=exllama"), "a100_80gb_sxm", "no", "set serve.dtype=float16"),
        (("quant=w4a16", "serve.kernel=exllama", "serve.dtype=float16"), "a100_80gb_sxm", "native", "ExLlama"),
        (("quant=w4a16", "serve.kernel=conch"), "l4", "no", "package conch-triton-kernels"),
        (("quant=int8_dynamic",), "b200", "no", "no INT8 products there; serve.kernel=triton has"),
        (("quant=int8_dynamic", "serve.kernel=triton"), "b200", "native", "Triton"),
        (("quant=awq_autoawq", "quant.group_size=256"), "rtx_4090", "native", "AWQ"),
        (("quant=gptq_int4", "quant.group_size=256"), "rtx_4090", "no", "groups of 32, 64 or 128 alone"),
    ],
)
def test_a_kernel_is_decided_with_group_size_precision_and_gpu(
    overrides: tuple[str, ...], gpu: str, support: str, said: str, settings
) -> None:
    found = of_settings(settings(*overrides), BY_KEY[gpu])
    assert (found.support, said in f"{found.by}; {found.reason}") == (support, True), found


def test_what_the_release_of_vllm_changes(settings) -> None:
    asked = settings("quant=fp8_dynamic", "serve.kernel=marlin")
    older = rules.Vllm((0, 26), rules.LOCKED.packages)
    assert of_settings(asked, BY_KEY["h100_sxm"]).by == "Marlin"
    found = of_settings(asked, BY_KEY["h100_sxm"], older)
    assert "from vLLM 0.32 on, this is 0.26" in found.reason
    assert of_settings(asked, BY_KEY["a100_80gb_sxm"], older).by == "Marlin"
    in_blocks = settings("quant=fp8_block")
    assert of_settings(in_blocks, BY_KEY["l40s"]).by == "Marlin"
    assert of_settings(in_blocks, BY_KEY["l40s"], older).by == "Triton"
