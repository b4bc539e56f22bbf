"""A service per test, over SQLite in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from edgetrust.store.engine import Database
from support.provisioning import Service, serving


@pytest_asyncio.fixture
async def memory() -> AsyncIterator[Database]:
    database = Database("sqlite://")
    await database.migrate()
    yield database
    await database.close()


@pytest_asyncio.fixture
async def service(memory: Database) -> AsyncIterator[Service]:
    async with serving(memory) as made:
        yield made
