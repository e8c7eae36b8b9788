"""The tables of `docs/formats.md`, generated from the code's own tables: `make docs`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the text around it is written by hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.config import QuantSettings
from pipeline.config.presets import CONF
from pipeline.formats.schemes import (
    AWQ,
    ENGINES,
    GPTQ,
    ROUND,
    SCHEMES,
    SIGNROUND,
    SMOOTHQUANT,
    SMOOTHQUANT_GPTQ,
    Scheme,
)
from pipeline.hardware.rules import LOCKED
from pipeline.hardware.vllm_kernels import KERNELS, SERVED, TITLES, VLLM, Kernel, title
from pipeline.models.architecture import DecoderShape
from pipeline.models.layout import bytes_of, stored
from pipeline.serve.capabilities import formats as all_formats
from pipeline.stages.quantize.engines import ENGINES as MAKERS
from tools.derived import rewrite

PAGE = Path(__file__).parents[1] / "docs" / "formats.md"
ALGORITHMS = {
    ROUND: "rounding",
    GPTQ: "GPTQ",
    AWQ: "AWQ",
    SMOOTHQUANT: "SmoothQuant",
    SMOOTHQUANT_GPTQ: "SmoothQuant with GPTQ",
    SIGNROUND: "signed gradient descent",
}
QWEN3_8B = {
    "model_type": "qwen3",
    "num_hidden_layers": 36,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
TABLE = re.compile(r"(<!-- table: (?P<name>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str) -> str:
    """Return the page with every table regenerated."""
    return TABLE.sub(lambda found: found[1] + TABLES[found["name"]]() + found[3], text)


def formats(family: str) -> str:
    """Tabulate the settings of `conf/quant/` whose formats are of one family."""
    header = ("`quant=`", "bits", "memory", "what it does", "made by", "from data", "served by")
    rows = []
    for name, quant in all_formats().items():
        if quant.format is not None and quant.format.family == family:
            bits, gigabytes = weight(quant)
            made = f"{MAKERS[quant.engine].TITLE} ({ALGORITHMS[quant.algorithm]})"
            numbers = (f"`{name}`", f"{bits:.1f}", f"{gigabytes:.2f} GB")
            rows.append((*numbers, described(name), made, data(quant), served(str(quant.scheme))))
    return table(header, rows)


def engines() -> str:
    """Tabulate the engines with the formats that they make."""
    header = ("engine", "is", "makes", "algorithms", "to know")
    rows = []
    for name in ENGINES[1:]:
        made = {scheme: own for scheme, own in SCHEMES.items() if name in own.engines}
        algorithms = dict.fromkeys(each for own in made.values() for each in own.engines[name])
        known = MAKERS[name]
        said = ", ".join(ALGORITHMS[each] for each in algorithms)
        rows.append((f"`{name}`", known.TITLE, ", ".join(made), said, known.NOTE))
    return table(header, rows)


def kernels() -> str:
    """Tabulate the values of `serve.kernel` with the formats and NVIDIA GPUs that each serves."""
    header = ("`serve.kernel=`", "is", "serves", "to know")
    rows = []
    for name, called in TITLES.items():
        found = [(scheme, kernel) for scheme, own in KERNELS.items() for kernel in own if kernel.choice == name]
        where: dict[str, list[str]] = {}
        for scheme, kernel in found:
            where.setdefault(reach(kernel), []).append(scheme)
        on_cpu = [scheme for scheme, own in SCHEMES.items() if SERVED[own.served].cpu.choice == name]
        if on_cpu:
            where["on a CPU"] = on_cpu
        served_there = "; ".join(f"{', '.join(dict.fromkeys(schemes))} {place}" for place, schemes in where.items())
        rows.append((f"`{name}`", called, served_there, "; ".join(dict.fromkeys(remarks(k for _, k in found)))))
    return table(header, rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "weights and activations": lambda: formats("weights and activations"),
    "weights only": lambda: formats("weights only"),
    "engines": engines,
    "kernels": kernels,
}


def weight(quant: QuantSettings) -> tuple[float, float]:
    """Return the bits of a quantized weight with its scales, and GB of all weights, of Qwen3-8B."""
    shapes = {name: ("BF16", shape) for name, shape in DecoderShape.of(QWEN3_8B).tensors.items()}
    sizes = bytes_of(stored(shapes, QWEN3_8B, quant))
    weights = sum(math.prod(shape) for name, (_, shape) in shapes.items() if name.endswith("_proj.weight"))
    return 8 * sum(size for name, size in sizes.items() if "_proj." in name) / weights, sum(sizes.values()) / 1e9


def described(name: str) -> str:
    """Return the comment at the top of a format's file, without its part on data."""
    lines = (CONF / "quant" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    count = next(place for place, line in enumerate(lines) if not line.startswith("#"))
    said = " ".join(line.removeprefix("#").strip() for line in lines[:count])
    return said.removesuffix("Needs no data.").strip().removesuffix(".")


def data(quant: QuantSettings) -> str:
    """Return the part of the calibration that the engine uses."""
    seen = [*(["ranges"] if quant.static_activations else []), *(["tokens"] if quant.takes_tokens else [])]
    return " and ".join(seen) or "nothing"


def served(scheme: str) -> str:
    """Return the kernels that vLLM chooses by default, in its order."""
    automatic = [kernel for kernel in KERNELS[scheme] if kernel.automatic]
    return ", ".join(f"{title(kernel)} {reach(kernel)}{limits(SCHEMES[scheme], kernel)}" for kernel in automatic)


def limits(scheme: Scheme, kernel: Kernel) -> str:
    """Return a kernel's limitation: no quantized products, or certain precisions only."""
    if scheme.family != "weights only" and kernel.note.startswith("weights only"):
        return " (weights only)"
    return f" (in {kernel.dtypes[0]})" if "float16" in kernel.dtypes else ""


def reach(kernel: Kernel) -> str:
    """Return the compute capabilities that a kernel serves."""
    below = "" if math.isinf(kernel.below) else f" to below {kernel.below}"
    release = "" if kernel.release == VLLM[0] else f" by vLLM {'.'.join(map(str, kernel.release))}"
    return f"from {kernel.since}{below}{release}"


def remarks(found: Iterable[Kernel]) -> Iterable[str]:
    """Yield the remarks on the kernels of one name."""
    for kernel in found:
        if kernel.groups:
            yield f"groups of {', '.join(map(str, kernel.groups))}"
        if "float16" in kernel.dtypes:
            yield f"`serve.dtype={kernel.dtypes[0]}`"
        if kernel.package in LOCKED.packages:
            yield f"`{kernel.package}`, which vLLM's CUDA build brings"
        elif kernel.package:
            yield f"`pip install {kernel.package}` beside vLLM"
        if kernel.note:
            yield kernel.note.partition(";")[0]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def main() -> None:
    """Rewrite the page; print whether it changed."""
    rewrite(PAGE, page)


if __name__ == "__main__":
    main()
