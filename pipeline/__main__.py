"""The command: help, the words of the command line, Hydra's composition, the runner."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from types import TracebackType

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape

from pipeline import interruption
from pipeline.artifacts.shortages import storage_shortage
from pipeline.config import RESOURCES, Settings
from pipeline.config.command_line import translated
from pipeline.config.compose import compose_variants
from pipeline.config.help import answer
from pipeline.config.messages import of_hydra
from pipeline.errors import PipelineError
from pipeline.progress import OBEYED, Progress
from pipeline.runner import Runner

_exit_code = 0


class JobFailed(CompactHydraException):
    """A job of a sweep failed; its reason is printed where it ran."""


@hydra.main(version_base=None, config_path=str(RESOURCES / "conf"), config_name="config")
def run(config: DictConfig) -> None:
    """Run one Hydra job, of one or several variants."""
    global _exit_code
    # Launchers of sweeps run jobs in processes of their own.
    interruption.install()
    hydra_config = HydraConfig.get()
    overrides, is_worth_a_log = list(hydra_config.overrides.task), False
    try:
        command = Runner(compose_variants(config, overrides), overrides)
        if command.dry_run and hydra_config.mode is RunMode.MULTIRUN:
            code = command.plan_in_a_line(hydra_config.job.num)
        else:
            code = command.plan() if command.dry_run else command.execute()
            is_worth_a_log = command.leaves_something
    except PipelineError as error:
        code = _shown(error)
    if not is_worth_a_log:
        _forget(hydra_config, Path(str(config.outputs)))
    _exit_code = max(_exit_code, code)
    if code and hydra_config.mode is RunMode.MULTIRUN:
        # A launcher knows a failed job by its exception; the other jobs of the sweep still run.
        raise JobFailed(f"this job failed with exit code {code}; the reason is above")


def _forget(job: HydraConf, outputs: Path) -> None:
    """Remove what Hydra stored of a job that made nothing: of a refused one it may be what nobody should store."""
    folders = [Path(job.runtime.output_dir)]
    if job.output_subdir:
        shutil.rmtree(folders[0] / job.output_subdir, ignore_errors=True)
    if job.mode is RunMode.MULTIRUN:
        folders.append(Path(job.sweep.dir))
        (folders[1] / "multirun.yaml").unlink(missing_ok=True)
    for folder in (*folders, outputs / "logs"):
        # Other jobs have files there.
        with contextlib.suppress(OSError):
            folder.rmdir()


def _shown(error: PipelineError) -> int:
    """Print an error; return its exit code."""
    Progress().say(f"[red]{type(error).__name__}:[/] {escape(str(error))}")
    return error.exit_code


def _show_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of a defect, whose message may be a text from elsewhere."""
    print(OBEYED.sub("", "".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def main() -> None:
    """Run the command and exit with its code: 0, that of the worst failure, or that of the signal that ended it."""
    interruption.install()
    sys.excepthook = _show_defect
    logging.captureWarnings(True)
    # On import by transformers it warns of missing GPU libraries.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    try:
        code = _command(sys.argv[1:])
        interruption.check()
    except BaseException:
        # Whatever fails after a signal follows from it.
        number = interruption.received()
        if number is None:
            raise
        code = interruption.Interrupted(number).exit_code
        # The terminal may be gone.
        with contextlib.suppress(OSError):
            print("interrupted; finished artifacts are kept, and a rerun continues from there", file=sys.stderr)
        interruption.leave(code)
    interruption.finish()
    sys.exit(code)


def _command(words: list[str]) -> int:
    """Answer for help, or run the jobs that the words ask for; return the exit code."""
    is_new = not _outputs(words).exists()
    try:
        text = answer(words)
        if text is not None:
            print(text)
            return 0
        sys.argv[1:] = translated(words)
        # Hydra then raises its errors instead of printing them.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        run()
    except PipelineError as error:
        return _shown(error)
    except JobFailed as error:
        return _exit_code or _shown(PipelineError(f"{error}."))
    except (HydraException, OmegaConfBaseException) as error:
        return _shown(of_hydra(error, Settings))
    except OSError as error:
        # Of Hydra too, which writes the settings before a job begins.
        refusal = storage_shortage(error, _outputs(words))
        if refusal is None:
            raise
        return _shown(refusal)
    except SystemExit as error:
        return _exit_code or (error.code if isinstance(error.code, int) else int(error.code is not None))
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                _outputs(words).rmdir()
    return _exit_code


def _outputs(words: list[str]) -> Path:
    """Return the folder of the artifacts, as the words of the command line have it."""
    given = [word.partition("=")[2] for word in words if word.startswith("outputs=")]
    return Path(given[-1] if given else "outputs")


if __name__ == "__main__":
    main()
