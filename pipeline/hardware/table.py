"""`stage=capabilities`: table of supported formats, for this machine and every GPU of the catalogue, or for one."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.formats.schemes import SCHEMES
from pipeline.hardware import rules, vllm_kernels
from pipeline.hardware.gpus import GPUS, Gpu
from pipeline.hardware.probe import Hardware
from pipeline.hardware.rules import LOCKED, Capability, Machine, ServingRequest, Vllm

MARKS = {"native": ("yes", "green"), "emulated": ("emulated", "yellow"), "no": ("no", "red")}
CACHES = ("fp8_e4m3", "fp8_e5m2")
Ask = Callable[[Machine, Vllm], Capability]


def rows() -> dict[str, Ask]:
    """Return the query for each format, by display name."""

    def weights(scheme: str | None) -> Ask:
        return lambda machine, vllm: rules.of_scheme(scheme, machine, vllm)

    def cache(dtype: str) -> Ask:
        return lambda machine, vllm: rules.of_kv_cache(dtype, machine, vllm)

    found = {"BF16": weights(None), **{scheme: weights(scheme) for scheme in SCHEMES}}
    return found | {f"KV cache {dtype}": cache(dtype) for dtype in CACHES}


def show(here: Hardware, vllm: Vllm, gpu: Gpu | None, console: Console) -> None:
    """Print the table of all machines, or that of one GPU."""
    if gpu is None:
        _all(here, vllm, console)
    else:
        _one(gpu, console)
    first, last = (".".join(map(str, release)) for release in vllm_kernels.VLLM)
    said = f"Read in the sources of vLLM {first} to {last}; GPUs as with {last}."
    console.print(Text(f"{said} emulated: the format's numbers, no claim on speed."))


def _one(gpu: Gpu, console: Console) -> None:
    """Print one GPU, with the kernels that can be requested."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for title in ("Format", gpu.name, "kernel", "serve.kernel can be", "to know"):
        table.add_column(title, no_wrap=title in ("Format", gpu.name))
    for name, ask in rows().items():
        found = ask(gpu, LOCKED)
        choices = [
            choice
            for choice in vllm_kernels.choices(name)
            for asked in (ServingRequest(choice), ServingRequest(choice, dtype="float16"))
            if rules.of_scheme(name, gpu, LOCKED, asked).support != "no"
        ]
        table.add_row(name, Text(*MARKS[found.support]), found.by, ", ".join(dict.fromkeys(choices)), found.reason)
    console.print(table)


def _all(here: Hardware, vllm: Vllm, console: Console) -> None:
    """Print this machine and the catalogue, with numbered notes below."""
    machines: list[Machine] = [here, *GPUS]
    # One column per compute capability, since its GPUs support the same formats.
    columns: dict[float | None, list[Machine]] = {}
    for machine in machines:
        columns.setdefault(machine.compute_capability if machine is not here else -1.0, []).append(machine)
    columns = dict(sorted(columns.items(), key=lambda column: column[0] or 0.0))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("Format", no_wrap=True)
    notes: dict[str, int] = {}
    for key, members in columns.items():
        names = "\n".join(member.name for member in members)
        version = "no vLLM" if vllm.release is None else "vLLM " + ".".join(map(str, vllm.release))
        table.add_column(f"here:\n{names}\n{version}" if key == -1.0 else f"{names}\n({key})", justify="center")
    for name, ask in rows().items():
        cells = []
        for key, members in columns.items():
            found = ask(members[0], vllm if key == -1.0 else LOCKED)
            mark, style = MARKS[found.support]
            note = "; ".join(filter(None, (found.by, _general(found.reason, members[0]))))
            number = notes.setdefault(note, len(notes) + 1) if note else 0
            cells.append(Text.assemble((mark, style), (f" {number}" if number else "", "dim")))
        table.add_row(name, *cells)
    console.print(table)
    for note, number in notes.items():
        console.print(Text(f"{number:>3}  {note}", style="dim"))


def _general(reason: str, machine: Machine) -> str:
    """Return a reason without the name of the machine."""
    return reason.replace(f", {machine.name} has {machine.compute_capability}", "")
