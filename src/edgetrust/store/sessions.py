"""The subscriptions of clients that connect with CleanSession 0, kept across connections and restarts.

They must be kept: the Python device client never subscribes again after a drop (hub specification 3.4). A session
without subscriptions is a session too: it makes "session present" true.

Rules: `save` replaces the whole set; calls for one client take effect in their order; a session goes with its identity.
What was read or written last is remembered, and as long as all of it fits, nobody new costs a query either: one process
serves a hub's or gateway's clients. What was read while something was written is not remembered, and a failed write
forgets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from sqlalchemy import Connection, bindparam, delete, insert, select

from edgetrust.clock import Clock
from edgetrust.limits import SESSIONS_REMEMBERED
from edgetrust.store.engine import Database
from edgetrust.store.records import milliseconds
from edgetrust.store.schema import session_subscriptions, sessions

Done = Callable[[BaseException | None], None]

_KNOWN = select(sessions.c.created_ms).where(
    sessions.c.device == bindparam("of_device"), sessions.c.module == bindparam("of_module")
)
_FILTERS = select(session_subscriptions.c.filter, session_subscriptions.c.qos).where(
    session_subscriptions.c.device == bindparam("of_device"), session_subscriptions.c.module == bindparam("of_module")
)


class Sessions:
    """Stored sessions by client identifier: `device` or `device/module`. Methods raise the store's errors."""

    def __init__(self, database: Database, clock: Clock, *, remembered: int = SESSIONS_REMEMBERED) -> None:
        self._database = database
        self._clock = clock
        self._room = remembered
        self._remembered: OrderedDict[str, dict[str, Mapping[str, int] | None]] = OrderedDict()  # by device
        self._writes = 0
        self._complete = False  # whether who is not remembered has no stored session

    async def preload(self) -> None:
        """Remember all stored sessions, if they fit: then a client without one costs no query. Call it at the start."""

        def work(connection: Connection) -> dict[str, dict[str, int]] | None:
            rows = connection.execute(select(sessions.c.device, sessions.c.module).limit(self._room + 1)).all()
            if len(rows) > self._room:
                return None
            found: dict[str, dict[str, int]] = {_client_id(row.device, row.module): {} for row in rows}
            for row in connection.execute(select(session_subscriptions)):
                found.setdefault(_client_id(row.device, row.module), {})[row.filter] = row.qos
            return found

        found = await self._database.read(work)
        if found is not None:
            self._complete = True
            for client_id, filters in found.items():
                self._remember(client_id, filters)

    async def load(self, client_id: str) -> Mapping[str, int] | None:
        """Filter -> granted QoS of the stored session, None if there is none."""
        of_device = self._remembered.get(_device(client_id), {})
        if client_id in of_device:
            return of_device[client_id]
        if self._complete:
            return None
        writes = self._writes
        found = await self._load(client_id)
        if self._writes == writes:
            self._remember(client_id, found)
        return found

    def forget(self, device: str, module: str | None = None) -> None:
        """This identity was deleted, a device with its modules, and what was stored for it is gone too."""
        self._writes += 1
        if module is None:
            self._remembered.pop(device, None)
        else:
            self._remembered.get(device, {}).pop(_client_id(device, module), None)

    async def _load(self, client_id: str) -> Mapping[str, int] | None:
        keys = _keys(client_id)

        def work(connection: Connection) -> dict[str, int] | None:
            if connection.execute(_KNOWN, keys).first() is None:
                return None
            return {row.filter: row.qos for row in connection.execute(_FILTERS, keys)}

        return await self._database.read(work)

    def save(self, client_id: str, filters: Mapping[str, int], done: Done) -> None:
        """Keep exactly these filters; `done(None)` once they are on disk."""
        kept, keys = dict(filters), _keys(client_id)
        created_ms = milliseconds(self._clock.now())

        def work(connection: Connection) -> None:
            row = {"device": keys["of_device"], "module": keys["of_module"]}
            if connection.execute(_KNOWN, keys).first() is None:
                connection.execute(insert(sessions), {**row, "created_ms": created_ms})
            table = session_subscriptions
            connection.execute(delete(table).where(table.c.device == row["device"], table.c.module == row["module"]))
            if kept:
                connection.execute(insert(table), [{**row, "filter": text, "qos": qos} for text, qos in kept.items()])

        self._post(client_id, work, kept, done)

    def discard(self, client_id: str, done: Done) -> None:
        """Forget the session: CleanSession 1."""
        keys = _keys(client_id)

        def work(connection: Connection) -> None:
            for table in (session_subscriptions, sessions):
                of_client = (table.c.device == keys["of_device"], table.c.module == keys["of_module"])
                connection.execute(delete(table).where(*of_client))

        self._post(client_id, work, None, done)

    def _post(
        self, client_id: str, work: Callable[[Connection], None], outcome: Mapping[str, int] | None, done: Done
    ) -> None:
        self._writes += 1
        self._remember(client_id, outcome)

        def written(error: BaseException | None) -> None:
            if error is not None:
                self._complete = False  # what is stored is not known any more
                self.forget(_device(client_id))
            done(error)

        self._database.post(work, written)

    def _remember(self, client_id: str, filters: Mapping[str, int] | None) -> None:
        device = _device(client_id)
        self._remembered.setdefault(device, {})[client_id] = filters
        self._remembered.move_to_end(device)
        if len(self._remembered) > self._room:
            self._remembered.popitem(last=False)
            self._complete = False


def _client_id(device: str, module: str) -> str:
    return f"{device}/{module}" if module else device


def _device(client_id: str) -> str:
    return client_id.partition("/")[0]


def _keys(client_id: str) -> dict[str, str]:
    device, _slash, module = client_id.partition("/")
    return {"of_device": device, "of_module": module}
