"""The errors a user can meet: each says what is wrong, names the way out, and has an exit code.

Anything else that escapes is a defect of the pipeline and keeps its traceback.
"""


class PipelineError(Exception):
    """What stopped the work, with the remedy as a sentence of its own."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        """Keeps `problem` (one sentence) and `remedy` (what the user can do about it)."""
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        """The sentence shown to the user."""
        return f"{self.problem} {self.remedy}".strip()


class ConfigError(PipelineError):
    """A setting is unknown, of the wrong type, or impossible together with another one."""

    exit_code = 2


class InputError(PipelineError):
    """A file the user named (model, data set) cannot be used."""

    exit_code = 3


class MissingTensor(InputError):
    """A checkpoint lacks a tensor that its format, or its model, has."""

    def __init__(self, name: str) -> None:
        """Names the tensor."""
        super().__init__(f"the tensor {name} is missing")


class UnknownFormat(PipelineError):
    """A number format, or a way to build layers, that is not known: nothing can be said of it, and nothing is wrong."""


class NotApplicable(PipelineError):
    """This hardware or this vLLM cannot do what was asked: a result (`n/a: reason`), not a failure."""


class ServerError(PipelineError):
    """The vLLM server did not start, died, or answered with an error."""

    exit_code = 4


class StageError(PipelineError):
    """A stage failed on its own work."""


class Regression(PipelineError):
    """A variant became worse than the stored baseline."""

    exit_code = 5


def hub_unreachable(setting: str, hub_id: str, local: str, error: Exception) -> InputError:
    """The error for a hub that does not answer, with the way out offline."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"{setting}: {hub_id} could not be fetched from the hub ({type(error).__name__}: {reason[0][:160]}).",
        f"Offline, fetch it on another machine (`hf download {hub_id}`) and set {local}=<the copy>; "
        "or use the embedded default, model=demo.",
    )
