"""Paths of the files that ship with the package: `conf/`, the calibration sets, the lock files of isolated engines.

They are at the top of the repository; `setup.py` copies them into the package when it builds a wheel.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
_SHIPPED = PACKAGE / "_data"
# The top of the checkout; None if installed from a wheel.
PROJECT_ROOT = None if _SHIPPED.is_dir() else PACKAGE.parent
# Contains `conf/`, `calibration_data/` and `requirements/engines/`; read only.
RESOURCES = PROJECT_ROOT or _SHIPPED
