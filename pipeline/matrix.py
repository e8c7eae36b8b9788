"""`stage=capabilities`: which format is served where, for this machine and every GPU of the catalogue."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline import capabilities
from pipeline.capabilities import Capability, Machine
from pipeline.catalogue import GPUS
from pipeline.hardware import Hardware
from pipeline.schemes import SCHEMES

MARKS = {"native": ("yes", "green"), "emulated": ("emulated", "yellow"), "no": ("no", "red")}
CACHES = ("fp8_e4m3", "fp8_e5m2")


def rows() -> dict[str, Callable[[Machine], Capability]]:
    """Each format by its name, and how to ask for it."""

    def weights(scheme: str | None) -> Callable[[Machine], Capability]:
        return lambda machine: capabilities.of_scheme(scheme, machine)

    def cache(dtype: str) -> Callable[[Machine], Capability]:
        return lambda machine: capabilities.of_kv_cache(dtype, machine)

    found = {"BF16": weights(None), **{scheme: weights(scheme) for scheme in SCHEMES}}
    return found | {f"KV cache {dtype}": cache(dtype) for dtype in CACHES}


def show(here: Hardware, console: Console) -> None:
    """Prints the matrix, and below it what the marks stand for."""
    machines: list[Machine] = [here, *GPUS]
    # A column for each kind of GPU: those of one compute capability can do the same.
    columns: dict[float | None, list[Machine]] = {}
    for machine in machines:
        columns.setdefault(machine.compute_capability if machine is not here else -1.0, []).append(machine)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("Format", no_wrap=True)
    notes: dict[str, int] = {}
    for key, members in columns.items():
        names = "\n".join(member.name for member in members)
        table.add_column(f"here:\n{names}" if key == -1.0 else f"{names}\n({key})", justify="center")
    for name, ask in rows().items():
        cells = []
        for members in columns.values():
            found = ask(members[0])
            mark, style = MARKS[found.support]
            note = "; ".join(filter(None, (found.by, _general(found.reason, members[0]))))
            number = notes.setdefault(note, len(notes) + 1) if note else 0
            cells.append(Text.assemble((mark, style), (f" {number}" if number else "", "dim")))
        table.add_row(name, *cells)
    console.print(table)
    for note, number in notes.items():
        console.print(Text(f"{number:>3}  {note}", style="dim"))
    console.print(Text(f"Written for vLLM {capabilities.VLLM}; emulated: the format's numbers, no claim on speed."))


def _general(reason: str, machine: Machine) -> str:
    """A reason without the name of the one machine that it was asked for."""
    return reason.replace(f", {machine.name} has {machine.compute_capability}", "")
