"""Copies what lies beside the package and is read at run time into the wheel (`pipeline/config/resources.py`)."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("conf", "calibration_data", "requirements/engines")


class BuildWithResources(build_py):
    """The package with its resources; an editable install reads them where they are."""

    def run(self) -> None:
        """Builds the package, then adds the resources."""
        super().run()
        if not self.editable_mode:
            data = Path(self.build_lib, "pipeline", "_data")
            # A file that an earlier build left there is not shipped again.
            shutil.rmtree(data, ignore_errors=True)
            for folder in SHIPPED:
                shutil.copytree(folder, data / folder)


setup(cmdclass={"build_py": BuildWithResources})
