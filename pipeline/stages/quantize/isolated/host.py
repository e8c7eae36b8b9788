"""Entry point of workers: `python -I host.py worker.py`, a script with a function `work(request, progress) -> answer`.

The request is a line of JSON on stdin; progress and the answer are lines of JSON on stdout.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping


def end_with_caller() -> None:
    """End this process and its children once the caller is gone, which closes stdin."""
    # Not through sys.stdin: a thread blocked in it breaks the interpreter's shutdown.
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Pass the request to the worker and its answer to the caller."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_caller, daemon=True).start()
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # The output of libraries goes to the log, which is stderr.
    os.dup2(2, 1)

    def send(message: Mapping[str, object]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    work = runpy.run_path(sys.argv[1])["work"]
    send(work(request, lambda text: send({"progress": text})))


if __name__ == "__main__":
    main()
