"""Where the files that ship with the package are: `conf/`, the calibration sets, the locks of isolated engines.

They lie at the top of the repository, and `setup.py` copies them into the package when it builds a wheel.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
_SHIPPED = PACKAGE / "_data"
# The top of the checkout; None where a wheel is installed, whose surroundings are not the project's.
PROJECT_ROOT = None if _SHIPPED.is_dir() else PACKAGE.parent
# Holds `conf/`, `calibration_data/` and `requirements/engines/`; read only.
RESOURCES = PROJECT_ROOT or _SHIPPED
