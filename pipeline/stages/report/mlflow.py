"""Optional logging of the report's figures and files to MLflow: a parent run, and a nested run for each variant.

MLflow is imported only here, and only if `report.mlflow` is set to a tracking URI.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.errors import ConfigError, StageError
from pipeline.stages.report.document import Card, Report
from pipeline.stages.report.renderers.csv_json import long_records, records

PACKAGES = ("mlflow-skinny", "mlflow")


def check(uri: str) -> None:
    """Check that MLflow is installed, before any work starts.

    Raises:
        ConfigError: with the command that installs it.
    """
    for name in PACKAGES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return
    raise ConfigError(
        f"report.mlflow={uri}: MLflow is not installed.",
        "Install it with `python -m pip install mlflow-skinny`, or leave report.mlflow=null.",
    )


def log(report: Report, folder: Path, uri: str) -> None:
    """Log one parent run with the report's files, and one nested run for each variant.

    Raises:
        StageError: if the tracking store cannot be written.
    """
    if "://" not in uri or uri.startswith("file:"):
        # The file store works offline with mlflow-skinny, but requires this opt-in.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    cards = {card.name: card for card in report.cards}
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(report.model)
        with mlflow.start_run(run_name=report.measured or "report"):
            mlflow.set_tags({"machine": report.machine, "verdict": report.verdict.answer.text})
            mlflow.log_params({f"setup.{name}": value[:500] for name, value in report.setup.items()})
            mlflow.log_artifacts(str(folder), "report")
            figures = list(long_records(report.comparison))
            for record in records(report):
                name = str(record["variant"])
                with mlflow.start_run(run_name=name, nested=True):
                    mlflow.set_tags({"variant": name, "emulated": ", ".join(cards[name].emulated) or "no"})
                    mlflow.log_params(dict(_params(cards[name])))
                    mlflow.log_metrics(dict(_metrics(record)))
                    mlflow.log_metrics(dict(_metrics(_by_metric(figures, name))))
    except (mlflow.MlflowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise StageError(
            f"report.mlflow={uri}: {reason}",
            "The report was written. A local store works offline: report.mlflow=file:./mlruns.",
        ) from error


def _params(card: Card) -> Iterator[tuple[str, str]]:
    for group in ("recipe", "calibration", "versions"):
        for name, value in getattr(card, group).items():
            yield f"{group}.{name}".replace("@", "_at_")[:250], value[:500]


def _by_metric(figures: Iterable[dict[str, object]], variant: str) -> dict[str, object]:
    """Return a variant's figures by load and metric."""
    return {
        "/".join(str(part) for part in (each.get("load"), each["metric"]) if part): each.get("value")
        for each in figures
        if each["variant"] == variant
    }


def _metrics(record: dict[str, object]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name), float(value)
