"""What the tests of the benchmark share: the process that has vLLM imported."""

from collections.abc import Iterator

import pytest

from pipeline.serve.launching import close_launchers


@pytest.fixture(scope="package", autouse=True)
def launcher() -> Iterator[None]:
    """Ends it after the last of them."""
    yield
    close_launchers()
