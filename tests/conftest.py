"""What holds for every test: no test of a law fails because the machine was busy, and what tests claim is kept."""

from __future__ import annotations

import pytest
from hypothesis import settings

from support import surface

settings.register_profile("edgetrust", deadline=None, print_blob=True)
settings.load_profile("edgetrust")


def pytest_configure(config: pytest.Config) -> None:
    surface.watch(config)
