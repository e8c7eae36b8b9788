"""The table of kernels says what the sources of the installed vLLM say."""

import ast
import importlib.util
from pathlib import Path

import pytest

from pipeline.formats.schemes import SCHEMES
from pipeline.hardware import rules
from pipeline.hardware.gpus import GPUS
from pipeline.hardware.vllm_kernels import KERNELS, TITLES, choices, is_asked_for
from pipeline.serve.support import of_settings

BY_KEY = {gpu.key: gpu for gpu in GPUS}
# Scheme -> vLLM's list of kernels in its order of preference.
LISTS = {
    "FP8": "_POSSIBLE_FP8_KERNELS",
    "FP8_DYNAMIC": "_POSSIBLE_FP8_KERNELS",
    "W8A8": "_POSSIBLE_INT8_KERNELS",
    "W8A8_STATIC": "_POSSIBLE_INT8_KERNELS",
    "W4A16": "_POSSIBLE_KERNELS",
    "W4A16_ASYM": "_POSSIBLE_KERNELS",
    "W8A16": "_POSSIBLE_KERNELS",
    "NVFP4": "_POSSIBLE_NVFP4_KERNELS",
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


@pytest.mark.parametrize("scheme", LISTS)
def test_the_order_of_preference_is_vllms(scheme: str, linear: Path) -> None:
    order = dicts(linear / "__init__.py")[LISTS[scheme]]["CUDA"]
    places = [order.index(kernel.name) for kernel in KERNELS[scheme] if kernel.automatic]
    assert places == sorted(places)


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
    for scheme in ("W4A16", "W4A16_ASYM", "W8A16"):
        for kernel in KERNELS[scheme]:
            # 7.5: the least of the quantization methods, whatever the kernel says.
            assert kernel.since == max(stated[kernel.name], 7.5), kernel


def test_every_scheme_has_kernels_and_every_choice_a_title() -> None:
    assert set(KERNELS) == set(SCHEMES)
    assert {choice for scheme in SCHEMES for choice in choices(scheme)} == set(TITLES)


def test_a_logged_kernel_is_known_for_the_choice_that_asks_for_it() -> None:
    assert is_asked_for("MarlinNvFp4LinearKernel", "marlin")
    assert is_asked_for("MacheteLinearKernel", "machete")
    assert not is_asked_for("MarlinLinearKernel", "machete")
    assert not is_asked_for("CPUWNA16LinearKernel", "marlin")


@pytest.mark.parametrize(
    ("overrides", "gpu", "support", "said"),
    [
        (("quant=awq", "serve.kernel=machete"), "h100_sxm", "native", "Machete"),
        (("quant=awq", "serve.kernel=machete"), "a100_80gb_sxm", "no", "Machete needs compute capability 9.0"),
        (("quant=awq", "serve.kernel=machete"), "b200", "no", "exists below compute capability 10.0"),
        (("quant=w4a16", "quant.group_size=32"), "h100_sxm", "native", "Marlin"),
        (("quant=w4a16", "quant.group_size=32", "serve.kernel=machete"), "h100_sxm", "no", "not of 32"),
        (("quant=w4a16", "serve.kernel=exllama"), "a100_80gb_sxm", "no", "set serve.dtype=float16"),
        (("quant=w4a16", "serve.kernel=exllama", "serve.dtype=float16"), "a100_80gb_sxm", "native", "ExLlama"),
        (("quant=w4a16", "serve.kernel=conch"), "l4", "no", "package conch-triton-kernels"),
        (("quant=int8_dynamic",), "b200", "no", "no INT8 products on 10.0; serve.kernel=triton has"),
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
