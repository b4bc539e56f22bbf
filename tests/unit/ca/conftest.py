"""A certificate authority per test, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from support.ca import CaWorld, certificate_authority


@pytest_asyncio.fixture
async def ca(tmp_path: Path) -> AsyncIterator[CaWorld]:
    async with certificate_authority(tmp_path) as made:
        yield made
