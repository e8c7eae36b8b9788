"""The command, ended by a signal right before or after it gives an artifact its name.

`python -m tools.reliability.victim <before|after> <stage> <variant> <signal> <process|group> <words of the command>`
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pipeline.__main__ import main


def arm(side: str, folder: str, number: int, *, group: bool) -> None:
    """Send this process or its group a signal at the publication of an artifact.

    Args:
        side: before or after.
        folder: beginning of the artifact's path within the model's folder.
        number: the signal.
        group: whether the whole group gets it.
    """
    rename = Path.rename

    def end() -> None:
        os.killpg(0, number) if group else os.kill(os.getpid(), number)

    def watched(path: Path, target: Path) -> Path:
        name = f"{target.parent.name}/{target.name}"
        hit = folder in name and path.suffix == ".tmp" and ".old." not in path.name
        if hit and side == "before":
            end()
        moved = rename(path, target)
        if hit and side == "after":
            end()
        return moved

    Path.rename = watched  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    side, stage, variant, name, target = sys.argv[1:6]
    del sys.argv[1:6]
    arm(side, f"{variant}/{stage}-" if variant else f"/{stage}-", signal.Signals[name], group=target == "group")
    main()
