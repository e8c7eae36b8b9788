"""Copy the resources that lie beside the package into the wheel (`pipeline/config/resources.py`)."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("conf", "calibration_data", "requirements/engines")


class BuildWithResources(build_py):
    """Build of the package with its resources; an editable install reads them in place."""

    def run(self) -> None:
        """Build the package, then add the resources."""
        super().run()
        if not self.editable_mode:
            data = Path(self.build_lib, "pipeline", "_data")
            # Remove files that an earlier build left.
            shutil.rmtree(data, ignore_errors=True)
            for folder in SHIPPED:
                shutil.copytree(folder, data / folder)


setup(cmdclass={"build_py": BuildWithResources})
