"""`stage=capabilities`: the variants that this machine and every GPU of the catalogue serve, or one GPU, as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.config import QuantSettings
from pipeline.config.names import choices
from pipeline.config.presets import choice
from pipeline.formats.schemes import ENGINES, MIXED, SCHEMES
from pipeline.hardware import vllm_kernels
from pipeline.hardware.gpus import GPUS, Gpu
from pipeline.hardware.probe import Hardware
from pipeline.hardware.rules import LOCKED, Capability, Machine, Vllm, of_kv_cache
from pipeline.serve.support import of_quant

WEIGHTS_ONLY = "weights only"
STYLES = {"native": "green", WEIGHTS_ONLY: "cyan", "emulated": "yellow", "no": "red"}
CACHES = ("fp8_e4m3", "fp8_e5m2")


@dataclass(frozen=True)
class Row:
    """A row of the table: a variant's name, its weights or its KV cache, and the question for a machine."""

    name: str
    ask: Callable[[Machine, Vllm], Capability]
    quant: QuantSettings | None = None

    def mark(self, found: Capability) -> str:
        """Return the answer in a word: a format whose activations are not rounded there multiplies in 16 bits."""
        scheme = self.quant.format if self.quant is not None else None
        is_unpacked = scheme is not None and scheme.family != WEIGHTS_ONLY and found.reason.startswith(WEIGHTS_ONLY)
        return WEIGHTS_ONLY if found.support == "native" and is_unpacked else found.support

    def kernels(self, gpu: Gpu) -> tuple[str, ...]:
        """Return the values of `serve.kernel` that the GPU serves."""
        quant = self.quant
        if quant is None:
            return ()
        found = (
            kernel
            for kernel in vllm_kernels.choices(quant.scheme)
            for dtype in ("auto", "float16")
            if of_quant(quant, gpu, kernel=kernel, dtype=dtype).support != "no"
        )
        return tuple(dict.fromkeys(found))


def formats() -> dict[str, QuantSettings]:
    """Return the formats of `conf/quant/`, in the order of `SCHEMES`, llm-compressor's first, mixes last."""
    found = {name: QuantSettings.model_validate(choice("quant", name)) for name in choices("quant")}
    order, makers = ["None", *SCHEMES, MIXED], list(ENGINES)
    return dict(
        sorted(found.items(), key=lambda each: (order.index(str(each[1].scheme)), makers.index(each[1].engine)))
    )


def rows() -> list[Row]:
    """Return a row for each format of weights, and for each of the KV cache."""

    def weights(quant: QuantSettings) -> Callable[[Machine, Vllm], Capability]:
        return lambda machine, vllm: of_quant(quant, machine, vllm)

    def cache(dtype: str) -> Callable[[Machine, Vllm], Capability]:
        return lambda machine, vllm: of_kv_cache(dtype, machine, vllm)

    found = [Row(name, weights(quant), quant) for name, quant in formats().items()]
    return [*found, *(Row(f"bf16+{dtype}", cache(dtype)) for dtype in CACHES)]


def show(here: Hardware, vllm: Vllm, gpu: Gpu | None, console: Console) -> None:
    """Print the table of all machines, or that of one GPU."""
    if gpu is None:
        _all(here, vllm, console)
    else:
        _one(gpu, console)
    first, last = (".".join(map(str, release)) for release in vllm_kernels.VLLM)
    console.print(
        Text(
            "native: the format's own products; weights only: they are unpacked, and products are in 16 bits; "
            "emulated: the format's numbers, without a speed. "
            f"According to the sources of vLLM {first} to {last}; GPUs as with {last}."
        )
    )


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title)
    return table


def _one(gpu: Gpu, console: Console) -> None:
    """Print one GPU, with the kernels that can be requested; variants with the same answer share a row."""
    table = _table("Variant", gpu.name, "kernel", "serve.kernel can be", "to know")
    table.columns[1].no_wrap = True
    answers: dict[tuple[str, ...], list[str]] = {}
    for row in rows():
        found = row.ask(gpu, LOCKED)
        answers.setdefault((row.mark(found), found.by, ", ".join(row.kernels(gpu)), found.reason), []).append(row.name)
    for (mark, kernel, kernels, reason), names in answers.items():
        table.add_row(", ".join(names), Text(mark, STYLES[mark]), kernel, kernels, reason)
    console.print(table)


def _all(here: Hardware, vllm: Vllm, console: Console) -> None:
    """Print this machine and the catalogue, with numbered notes below; variants with the same answers share a row."""
    # One column per compute capability, since its GPUs support the same formats.
    columns: dict[float | None, list[Machine]] = {-1.0: [here]}
    for machine in sorted(GPUS, key=lambda gpu: gpu.compute_capability):
        columns.setdefault(machine.compute_capability, []).append(machine)
    version = "no vLLM" if vllm.release is None else "vLLM " + ".".join(map(str, vllm.release))
    table = _table("Variant")
    for key, members in columns.items():
        names = "\n".join(member.name for member in members)
        table.add_column(f"here:\n{names}\n{version}" if key == -1.0 else f"{names}\n({key})", justify="center")
    notes: dict[str, int] = {}
    answers: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for row in rows():
        cells = tuple(_cell(row, key, members[0], vllm, notes) for key, members in columns.items())
        answers.setdefault(cells, []).append(row.name)
    for cells, same in answers.items():
        shown = (Text.assemble((mark, STYLES[mark]), (f" {note}" if note else "", "dim")) for mark, note in cells)
        table.add_row(", ".join(same), *shown)
    console.print(table)
    for note, number in notes.items():
        console.print(Text(f"{number:>3}  {note}", style="dim"))


def _cell(row: Row, key: float | None, machine: Machine, vllm: Vllm, notes: dict[str, int]) -> tuple[str, int]:
    """Return a variant's answer on a machine, and the number of its note; 0 without one."""
    found = row.ask(machine, vllm if key == -1.0 else LOCKED)
    note = "; ".join(filter(None, (found.by, _general(found.reason, machine))))
    return row.mark(found), notes.setdefault(note, len(notes) + 1) if note else 0


def _general(reason: str, machine: Machine) -> str:
    """Return a reason without the name of the machine."""
    return reason.replace(f", {machine.name} has {machine.compute_capability}", "")
