"""What EST has to remember between two requests: names that were claimed, and requests that wait for a person.

Rules. All functions run inside a transaction of `Database`; whoever calls them decides and records in the same one.

It must not know who may have what.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from edgetrust.store.ca_tables import est_claims, est_requests
from edgetrust.store.pointquery import PointQuery, PointWrite
from edgetrust.store.records import at_moment, milliseconds

PENDING, APPROVED, DENIED = "pending", "approved", "denied"
# On the path of every enrolment: compiled once.
_CLAIM = PointQuery(select(est_claims).where(est_claims.c.name == bindparam("name")))
_ADD_CLAIM = PointWrite(est_claims)


@dataclass(frozen=True, slots=True)
class Claim:
    """A name that a bootstrap credential has taken, with the key it was taken for."""

    name: str
    credential: str
    public_key: str
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A request that waits for a person, or was decided by one."""

    id: str
    authority: str
    profile: str
    identity: str
    subject: str
    public_key: str
    csr: bytes
    credential: str
    peer: str
    state: str
    asked_at: datetime
    decided_at: datetime | None
    note: str


def find_claim(connection: Connection, name: str) -> Claim | None:
    """Who has taken a name."""
    rows = _CLAIM.rows(connection, {"name": name})
    if not rows:
        return None
    row = rows[0]
    return Claim(row["name"], row["credential"], row["public_key"], at_moment(row["claimed_ms"]))


def add_claim(connection: Connection, claim: Claim) -> None:
    """Take a name."""
    values = {
        "name": claim.name,
        "credential": claim.credential,
        "public_key": claim.public_key,
        "claimed_ms": milliseconds(claim.claimed_at),
    }
    _ADD_CLAIM.add(connection, values)


def release_claim(connection: Connection, name: str) -> bool:
    """Let a name be taken again; whether it was taken."""
    return connection.execute(delete(est_claims).where(est_claims.c.name == name)).rowcount > 0


def find_request(connection: Connection, request_id: str) -> RequestRow | None:
    """A request by its identifier."""
    row = connection.execute(select(est_requests).where(est_requests.c.id == request_id)).first()
    return None if row is None else _request(row)


def read_requests(connection: Connection, state: str = PENDING) -> tuple[RequestRow, ...]:
    """Requests in a state, the oldest first."""
    query = select(est_requests).where(est_requests.c.state == state).order_by(est_requests.c.asked_ms)
    return tuple(_request(row) for row in connection.execute(query))


def count_waiting(connection: Connection, credential: str) -> int:
    """How many requests of a credential wait for a person."""
    waits = (est_requests.c.state == PENDING) & (est_requests.c.credential == credential)
    return connection.execute(select(func.count()).select_from(est_requests).where(waits)).scalar_one()


def add_request(connection: Connection, row: RequestRow) -> None:
    """Let a request wait."""
    values = {name: getattr(row, name) for name in _REQUEST}
    connection.execute(insert(est_requests), {**values, "asked_ms": milliseconds(row.asked_at), "decided_ms": 0})


def decide_request(connection: Connection, request_id: str, state: str, at: datetime, note: str) -> None:
    """What a person said about it."""
    one = est_requests.c.id == request_id
    connection.execute(update(est_requests).where(one).values(state=state, decided_ms=milliseconds(at), note=note))


def forget_request(connection: Connection, request_id: str) -> None:
    """It has been answered for good."""
    connection.execute(delete(est_requests).where(est_requests.c.id == request_id))


_REQUEST = (
    "id",
    "authority",
    "profile",
    "identity",
    "subject",
    "public_key",
    "csr",
    "credential",
    "peer",
    "state",
    "note",
)


def _request(row: Row[tuple[object, ...]]) -> RequestRow:
    values = {name: getattr(row, name) for name in _REQUEST}
    decided = at_moment(row.decided_ms) if row.decided_ms else None
    return RequestRow(**{**values, "csr": bytes(row.csr)}, asked_at=at_moment(row.asked_ms), decided_at=decided)
