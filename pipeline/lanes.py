"""Lanes: processes that work at the same time, each with GPUs and cores of its own.

All that a lane starts (servers, load generators, samplers) inherits its `CUDA_VISIBLE_DEVICES` and its affinity, so
that no two of them share a GPU or a core, and what the guards call foreign is not another lane. A lane takes one task
after another, and ends with its parent.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Generic, TypeVar

from pipeline import interruption
from pipeline.errors import PipelineError, StageError
from pipeline.hardware.probe import Hardware

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")
# Does a task in a lane.
Worker = Callable[[Task], Outcome]
# CUDA does not survive a fork.
CONTEXT = multiprocessing.get_context("spawn")
GRACE_S = 8.0
TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/{}"
PR_SET_PDEATHSIG = 1


class Lane(Generic[Task, Outcome]):
    """A process on a part of the machine."""

    def __init__(
        self, place: Hardware, cores: Sequence[int], made: Callable[[Hardware], Worker[Task, Outcome]]
    ) -> None:
        """Start the process.

        Args:
            place: its part of the machine.
            cores: the cores of that part.
            made: makes what does the tasks, in the new process; sent there, so a function of a module or a partial.
        """
        self.place = place
        self.task: Task | None = None
        self.connection, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_work, args=(theirs, place, cores, made))
        self._process.start()
        theirs.close()

    def begin(self, task: Task) -> None:
        """Hand a task over to an idle lane."""
        self.task = task
        self.connection.send(task)

    def finish(self) -> Outcome:
        """Return the outcome of the task; wait for it.

        Raises:
            PipelineError: that the task has raised.
            StageError: if the process has ended.
        """
        assert self.task is not None
        self.task = None
        try:
            outcome: Outcome | PipelineError = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(GRACE_S)
            names = ",".join(self.place.gpus)
            raise StageError(
                f"The process on GPU {names} ended with code {self._process.exitcode}.", "Its last words are above."
            ) from None
        if isinstance(outcome, PipelineError):
            raise outcome
        return outcome

    def close(self) -> None:
        """Let an idle process end, or terminate one that is at work."""
        if self.task is not None:
            self._process.terminate()
        with suppress(OSError):
            self.connection.send(None)
        self._process.join(GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()


@contextmanager
def opened(
    places: Sequence[Hardware], made: Callable[[Hardware], Worker[Task, Outcome]]
) -> Iterator[list[Lane[Task, Outcome]]]:
    """Start a lane on each part of the machine, and end them all behind the block."""
    lanes: list[Lane[Task, Outcome]] = []
    try:
        for place, cores in zip(places, shares_of_cores(len(places)), strict=True):
            lanes.append(Lane(place, cores, made))
        yield lanes
    finally:
        for lane in lanes:
            lane.close()


def ready(lanes: Sequence[Lane[Task, Outcome]]) -> list[Lane[Task, Outcome]]:
    """Wait until a lane at work has an outcome; return those that have one."""
    by_connection = {lane.connection: lane for lane in lanes if lane.task is not None}
    return [by_connection[each] for each in wait(list(by_connection)) if isinstance(each, Connection)]


def shares_of_cores(number: int) -> list[tuple[int, ...]]:
    """Return the cores of each of so many lanes: threads of one core stay together, and cores of one socket."""
    cores = sorted(os.sched_getaffinity(0), key=lambda core: (_topology(core), core))
    each = max(1, len(cores) // number)
    return [tuple(cores[at * each % len(cores) :][:each]) for at in range(number)]


def _topology(core: int) -> tuple[int, int]:
    """Return the socket of a core and its number there; zeros where the kernel does not tell."""
    try:
        socket, own = (
            int(Path(TOPOLOGY.format(core, name)).read_text()) for name in ("physical_package_id", "core_id")
        )
    except (OSError, ValueError):
        return 0, 0
    return socket, own


def _work(
    connection: Connection, place: Hardware, cores: Sequence[int], made: Callable[[Hardware], Worker[Task, Outcome]]
) -> None:
    """Do tasks until there are no more, or no parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # Without a choice of the user's the numbers are those of nvidia-smi.
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
    os.sched_setaffinity(0, cores)
    interruption.install()
    try:
        work = _or_error(made, place)
        while (task := connection.recv()) is not None:
            connection.send(work if isinstance(work, PipelineError) else _or_error(work, task))
    except EOFError:
        pass
    except interruption.Interrupted as signalled:
        interruption.leave(signalled.exit_code)


def _or_error(call: Callable[[Task], Outcome], argument: Task) -> Outcome | PipelineError:
    try:
        return call(argument)
    except PipelineError as error:
        return error
