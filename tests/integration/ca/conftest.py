"""A certificate authority that serves, on loopback and today's date: foreign clients know no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from support.ca_server import CaServer, ca_server


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[CaServer]:
    async with ca_server(tmp_path) as made:
        yield made
