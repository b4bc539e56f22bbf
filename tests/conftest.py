"""What holds for every test: no test of a law fails because the machine was busy, and what tests claim is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support import surface

settings.register_profile("edgetrust", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgetrust")


def pytest_configure(config: pytest.Config) -> None:
    surface.watch(config)


_OF_PROCESSES = ("e2e", "docs", "integration/edge", "integration/cli", "fault", "interop")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long begin first, so that no worker is busy with one when the others have nothing left: those
    that may take longer than others, then those that start processes. Otherwise the order stays random.
    """
    most: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        most[item.path] = max(most.get(item.path, 0), marker.args[0] if marker is not None else 0)
    here = Path(__file__).parent
    short = {path: not str(path.relative_to(here)).startswith(_OF_PROCESSES) for path in most}
    items.sort(key=lambda item: (-most[item.path], short[item.path]))
