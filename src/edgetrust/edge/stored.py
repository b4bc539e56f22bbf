"""What one gateway keeps in its database: messages on their way, what was decided, sessions, copies of scope and twins.

The copies are sealed with a key that is derived for them: who reads the file of the database learns no key of a device.

It must not know who uses any of it.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from edgetrust.clock import Clock
from edgetrust.edge.files import MASTER_ENCRYPTION_KEY, Layout
from edgetrust.edge.keyd import derived
from edgetrust.edge.settings import Settings
from edgetrust.pki.keys import KeyStore
from edgetrust.store.audit import AuditTrail
from edgetrust.store.engine import Database
from edgetrust.store.queues import ForwardQueue
from edgetrust.store.sessions import Sessions
from edgetrust.store.snapshot import ScopeSnapshot
from edgetrust.store.twin_copies import TwinCopies

_COPIES = b"edgetrust copies"  # what is derived for them seals the copies of scope and twins


@dataclass(frozen=True, slots=True)
class Stored:
    """One open database, by what is kept in it."""

    queue: ForwardQueue
    trail: AuditTrail
    sessions: Sessions
    scope: ScopeSnapshot
    twins: TwinCopies

    @classmethod
    async def open(
        cls, settings: Settings, layout: Layout, keys: KeyStore, clock: Clock, closing: AsyncExitStack
    ) -> Stored:
        """Open it, migrated; `closing` writes what waits and closes it. Raises the store's errors."""
        database = Database(f"sqlite:///{layout.database.absolute()}")
        closing.push_async_callback(database.close)
        await database.migrate()
        queue = await ForwardQueue.open(database, clock=clock)
        queue.recognise(settings.recognition)
        closing.push_async_callback(queue.close)
        trail = AuditTrail(database)
        closing.push_async_callback(trail.flush)
        sessions = Sessions(database, clock)
        await sessions.preload()
        key = await asyncio.to_thread(derived, keys, MASTER_ENCRYPTION_KEY, _COPIES)
        scope = ScopeSnapshot(database, key, settings.hub, settings.device)
        return cls(queue, trail, sessions, scope, TwinCopies(database, key))
