"""A hub per test, on SQLite; its certificates are made once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from edgetrust.hub.pki import HubPki
from support.database import durable_url, postgres
from support.hub import World, new_pki, running

__all__ = ["durable_url", "postgres"]


@pytest.fixture(scope="session")
def hub_pki(tmp_path_factory: pytest.TempPathFactory) -> HubPki:
    return new_pki(tmp_path_factory.mktemp("pki"))


@pytest_asyncio.fixture
async def world(tmp_path: Path, hub_pki: HubPki) -> AsyncIterator[World]:
    async with running(tmp_path, hub_pki) as made:
        yield made


@pytest_asyncio.fixture
async def each_world(durable_url: str, tmp_path: Path, hub_pki: HubPki) -> AsyncIterator[World]:
    """The same hub on SQLite and on PostgreSQL."""
    async with running(tmp_path, hub_pki, durable_url) as made:
        yield made
