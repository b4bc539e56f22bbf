"""One story for all rows: a hub, a gateway and a sensor under the article's names. Tests add what they change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.story import Story


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The world that runs while rows are shown. Who changes a registration uses a device of its own."""
    made = Story(tmp_path_factory.mktemp("story"))
    try:
        made.begin()
        yield made
    finally:
        made.end()
