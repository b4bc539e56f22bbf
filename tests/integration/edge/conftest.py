"""A hub that runs, with or without a gateway and a sensor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.edge_world import Story, World, begin_story


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A hub that runs, and no gateway yet."""
    made = World(tmp_path)
    try:
        made.hub.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A story that several tests look at, and none disturbs."""
    story = begin_story(tmp_path_factory.mktemp("story"))
    yield story
    story.world.close()


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """A story of one's own, to cut and change."""
    made = begin_story(tmp_path)
    yield made
    made.world.close()
