"""The typed schema of everything under `conf/`: what may be set, of which type, and what fits together.

Hydra composes the YAML files and overrides; `Settings` checks the result as a whole and reports every error at once,
before any heavy import. The classes are pure: none opens a file or probes anything; `choice` alone reads `conf/`. The
first line of a module says which groups of `conf/` it holds.
"""

from pipeline.config.base import Command, Stage
from pipeline.config.calibration import CalibrationSet, CalibrationSettings, DatasetSettings
from pipeline.config.checkpoints import KVCacheSettings, ModelSettings, QuantSettings
from pipeline.config.eval import DivergenceSettings, EvalSettings, TaskSettings
from pipeline.config.presets import choice
from pipeline.config.report import ConstraintSettings, HardwareSettings, PublishSettings, ReportSettings
from pipeline.config.resources import PACKAGE, PROJECT_ROOT, RESOURCES
from pipeline.config.serving import SLO_METRICS, BenchSettings, LadderSettings, ServeSettings, SloSettings
from pipeline.config.settings import Settings, Variant, validate

__all__ = [
    "PACKAGE",
    "PROJECT_ROOT",
    "RESOURCES",
    "SLO_METRICS",
    "BenchSettings",
    "CalibrationSet",
    "CalibrationSettings",
    "Command",
    "ConstraintSettings",
    "DatasetSettings",
    "DivergenceSettings",
    "EvalSettings",
    "HardwareSettings",
    "KVCacheSettings",
    "LadderSettings",
    "ModelSettings",
    "PublishSettings",
    "QuantSettings",
    "ReportSettings",
    "ServeSettings",
    "Settings",
    "SloSettings",
    "Stage",
    "TaskSettings",
    "Variant",
    "choice",
    "validate",
]
