"""The typed schema of everything under `conf/`: the settings, their types, and which combinations are valid.

Hydra composes the YAML files and overrides; `Settings` validates the result as a whole and reports all errors at once,
before any heavy import. The classes are pure: none opens a file or probes anything; only `choice` reads `conf/`. Each
module is named after its group. Defaults and descriptions are defined only here: `make config` copies them to
`conf/config.yaml`.
"""

from pipeline.config.base import Command, Stage
from pipeline.config.bench import SLO_METRICS, BenchSettings, LadderSettings, SloSettings
from pipeline.config.calibration import CalibrationSet, CalibrationSettings
from pipeline.config.dataset import DatasetSettings
from pipeline.config.eval import DivergenceSettings, EvalSettings, TaskSettings
from pipeline.config.existing import ExistingSettings
from pipeline.config.hardware import HardwareSettings
from pipeline.config.kv_cache import KVCacheSettings
from pipeline.config.mixed import ChosenSettings
from pipeline.config.model import ModelSettings
from pipeline.config.presets import choice
from pipeline.config.publish import PublishSettings
from pipeline.config.quant import QuantSettings
from pipeline.config.report import ConstraintSettings, ReportSettings
from pipeline.config.resources import PACKAGE, PROJECT_ROOT, RESOURCES
from pipeline.config.serve import ServeSettings
from pipeline.config.settings import Settings, Variant, validate, why_no_kernel

__all__ = [
    "PACKAGE",
    "PROJECT_ROOT",
    "RESOURCES",
    "SLO_METRICS",
    "BenchSettings",
    "CalibrationSet",
    "CalibrationSettings",
    "ChosenSettings",
    "Command",
    "ConstraintSettings",
    "DatasetSettings",
    "DivergenceSettings",
    "EvalSettings",
    "ExistingSettings",
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
    "why_no_kernel",
]
