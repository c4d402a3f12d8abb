"""What the tests of installation share: a wheel is built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.install.environments import ROOT, build_wheels


@pytest.fixture(scope="session")
def kernel_wheel(tmp_path_factory) -> Path:
    """Build the wheel of the kernel."""
    return build_wheels(ROOT, tmp_path_factory.mktemp("wheels"))
