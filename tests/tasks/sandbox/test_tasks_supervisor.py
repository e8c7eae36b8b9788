"""Processes are counted with all that they hold, and killed only if they are still the same."""

import os
import subprocess
import time

from pipeline.tasks.sandbox.supervisor import MIB, Process, descendants, start_of


def test_a_process_that_got_the_number_of_another_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        try:
            Process(child.pid, b"1", 0).kill()
            time.sleep(0.1)
            assert child.poll() is None
            Process(child.pid, start_of(child.pid), 0).kill()
            assert child.wait(5) == -9
        finally:
            child.kill()
    Process(child.pid, b"1", 0).kill()


def test_descendants_have_their_memory() -> None:
    source = "x = b'x' * (64 * 2**20); import os; os.fork(); os.write(1, b'1'); __import__('time').sleep(600)"
    with subprocess.Popen(["python3", "-c", source], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.read(2) == b"11"
            found = {each.pid: each.held for each in descendants(child.pid)}
            assert len(found) == 2
            assert all(held > 64 * MIB for held in found.values())
            assert os.getpid() not in found
        finally:
            for each in descendants(child.pid):
                each.kill()
