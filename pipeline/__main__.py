"""Hydra's entry: compose the configuration, check it, hand it to the runner."""

from __future__ import annotations

import logging
import signal
import sys
import warnings

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.markup import escape

from pipeline.config import RESOURCES
from pipeline.config.compose import compose_variants
from pipeline.errors import PipelineError
from pipeline.progress import Progress
from pipeline.runner import Runner

_exit_code = 0


@hydra.main(version_base=None, config_path=str(RESOURCES / "conf"), config_name="config")
def run(config: DictConfig) -> None:
    """Run one Hydra job, of one or several variants."""
    global _exit_code
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    console = Progress().console
    try:
        command = Runner(compose_variants(config, overrides), overrides)
        code = command.plan() if command.dry_run else command.execute()
    except PipelineError as error:
        console.print(f"[red]{type(error).__name__}:[/] {escape(str(error))}", soft_wrap=True)
        code = error.exit_code
    _exit_code = max(_exit_code, code)
    if code and hydra_config.mode is RunMode.MULTIRUN:
        # A launcher knows a failed job by its exception; the other jobs of the sweep still run.
        raise CompactHydraException(f"this job failed with exit code {code}; the reason is above")


def _terminated(*_: object) -> None:
    """Stop as on Ctrl-C; finished artifacts are kept."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the command and exit with its code: 0, or that of the worst failure."""
    signal.signal(signal.SIGTERM, _terminated)
    logging.captureWarnings(True)
    # On import by transformers it warns of missing GPU libraries.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    # Hydra copies this store, which nothing changes any more, for each of some hundred groups that `--help` lists.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    try:
        run()
    except SystemExit as error:
        sys.exit(_exit_code or error.code)
    except KeyboardInterrupt:
        print("interrupted; finished artifacts are kept, and a rerun continues from there", file=sys.stderr)
        sys.exit(130)
    sys.exit(_exit_code)


if __name__ == "__main__":
    main()
