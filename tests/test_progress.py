"""What the terminal shows."""

import io

from rich.console import Console

from pipeline.progress import Progress


def test_what_holds_for_many_steps_is_said_at_the_first() -> None:
    shown = io.StringIO()
    progress = Progress(Console(file=shown))
    for text in ("MMLU: 300 items", "C-Eval: 300 items", "MMLU: 300 items"):
        progress.say_once(text)
    progress.say("done")
    progress.say("done")
    assert shown.getvalue().split("\n")[:-1] == ["MMLU: 300 items", "C-Eval: 300 items", "done", "done"]
