"""Errors shown to the user, each with its problem, its remedy and an exit code.

Any other exception is a defect of the pipeline: it is shown with its traceback, and fails the step that it comes from.
"""


class PipelineError(Exception):
    """Base of all errors shown to the user: a problem and a remedy."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        """Keep `problem` (one sentence) and `remedy` (what the user can do about it)."""
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        """Return the problem and the remedy."""
        return f"{self.problem} {self.remedy}".strip()


class ConfigError(PipelineError):
    """A setting is unknown, of the wrong type, or incompatible with another one."""

    exit_code = 2


class InputError(PipelineError):
    """An input named by the user (model, data set, server) cannot be used."""

    exit_code = 3


class MissingTensor(InputError):
    """A checkpoint lacks a tensor that its format, or its model, has."""

    def __init__(self, name: str) -> None:
        """Names the tensor."""
        super().__init__(f"the tensor {name} is missing")


class UnknownFormat(PipelineError):
    """A number format, or a way to build layers, that is not known: nothing can be said of it, and nothing is wrong."""


class NotApplicable(PipelineError):
    """This hardware or this vLLM does not support the request: a result (`n/a: reason`), not a failure."""


class ServerError(PipelineError):
    """The vLLM server did not start, exited, or answered with an error."""

    exit_code = 4


class StageError(PipelineError):
    """The work of a stage failed."""


class StorageError(StageError):
    """The storage of `outputs` is full, read-only or failing: no step can finish, and no variant is at fault."""


class Regression(PipelineError):
    """A variant is worse than the stored baseline."""

    exit_code = 5


class Undecided(PipelineError):
    """A variant may be worse than the stored baseline (`report.fail_on_undecided`)."""


def hub_unreachable(setting: str, hub_id: str, local: str, error: Exception) -> InputError:
    """Return the error for what the hub does not give, with the way out by the reason.

    Args:
        setting: the setting that names the repository.
        hub_id: the repository.
        local: the setting that takes a local copy.
        error: of the hub's client; the reason may be its cause.
    """
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and isinstance(cause, Exception):
        chain.append(cause)
    kinds = {kind.__name__ for each in chain for kind in type(each).__mro__}
    answers = (getattr(getattr(each, "response", None), "status_code", None) for each in chain)
    status = next((answer for answer in answers if answer is not None), None)
    page = f"https://huggingface.co/{'datasets/' if 'dataset' in setting else ''}{hub_id}"
    log_in = "log in with `hf auth login` (or set HF_TOKEN)"
    if "GatedRepoError" in kinds or (status == 403 and "RepositoryNotFoundError" not in kinds):
        return InputError(
            f"{setting}: {hub_id} is gated, and this account has no access to it.",
            f"Accept its licence on {page}, then {log_in}.",
        )
    if kinds & {"RevisionNotFoundError", "RemoteEntryNotFoundError"} or (
        "EntryNotFoundError" in kinds and "LocalEntryNotFoundError" not in kinds
    ):
        return InputError(
            f"{setting}: {hub_id} has no such revision or file ({_reason(error)}).", f"See {page}/tree/main."
        )
    if kinds & {"RepositoryNotFoundError", "HFValidationError"} or status in (401, 404):
        return InputError(
            f"{setting}: the hub has no {hub_id}, or does not show it to this account ({status or 'not found'}).",
            f"Check the name on {page}; if it is private, {log_in}; for a local folder set {local}.",
        )
    return InputError(
        f"{setting}: {hub_id} could not be fetched from the hub ({_reason(error)}).",
        f"Offline, fetch it on another machine (`hf download {hub_id}`) and set {local}=<the copy>; "
        "or use the embedded default, model=demo.",
    )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{type(error).__name__}: {lines[0][:160]}"
