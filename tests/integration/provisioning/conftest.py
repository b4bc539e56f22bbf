"""A service per test, over SQLite in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from edgetrust.store.engine import Database
from support.database import durable_url, postgres
from support.provisioning import Service, serving

__all__ = ["durable_url", "postgres"]


@pytest_asyncio.fixture
async def service() -> AsyncIterator[Service]:
    database = Database("sqlite://")
    await database.migrate()
    async with serving(database) as made:
        yield made
    await database.close()
