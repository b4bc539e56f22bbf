"""Passwords of enrolling clients (EST over HTTP Basic): one-time or lasting, each good for certain names.

Rules. Only a salted scrypt hash is kept. A password may have a number of uses and an end. Verifying costs tens of
milliseconds on purpose and does not touch the database: it runs on a thread, and the transaction that issues takes
the use. Functions run inside a transaction of `Database`, except `matches`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from edgetrust.pki.keys import SecretText
from edgetrust.store.ca_tables import est_passwords
from edgetrust.store.pointquery import PointQuery
from edgetrust.store.records import at_moment, milliseconds

UNLIMITED = -1
_FIND = PointQuery(select(est_passwords).where(est_passwords.c.username == bindparam("username")))
_TAKE = (
    update(est_passwords)
    .where(est_passwords.c.username == bindparam("user"), est_passwords.c.uses_left > 0)
    .values(uses_left=est_passwords.c.uses_left - 1)
)
_SALT_BYTES = 16
_COST, _BLOCK, _LANES = 2**14, 8, 1  # 16 MiB and about 40 ms: what interactive log-ins use


@dataclass(frozen=True, slots=True)
class Password:
    """A stored password. `names` is a pattern of identities; `uses_left` -1 means without limit."""

    username: str
    salt: bytes
    hash: bytes
    names: str
    uses_left: int
    expires_at: datetime | None
    created_at: datetime


def new_password(
    username: str, secret: SecretText, names: str, uses: int, expires_at: datetime | None, now: datetime
) -> Password:
    """A password to store. Slow: see above."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return Password(username, salt, _hash(secret, salt), names, uses, expires_at, now)


def matches(password: Password, secret: SecretText) -> bool:
    """Whether the secret is the one that was stored. Slow: see above."""
    return hmac.compare_digest(password.hash, _hash(secret, password.salt))


def _hash(secret: SecretText, salt: bytes) -> bytes:
    return hashlib.scrypt(secret.reveal().encode(), salt=salt, n=_COST, r=_BLOCK, p=_LANES, maxmem=64 * 2**20)


def put_password(connection: Connection, password: Password) -> None:
    """Store, or replace the one of that user name."""
    connection.execute(delete(est_passwords).where(est_passwords.c.username == password.username))
    values = {
        "username": password.username,
        "salt": password.salt,
        "hash": password.hash,
        "names": password.names,
        "uses_left": password.uses_left,
        "expires_ms": 0 if password.expires_at is None else milliseconds(password.expires_at),
        "created_ms": milliseconds(password.created_at),
    }
    connection.execute(insert(est_passwords), values)


def find_password(connection: Connection, username: str) -> Password | None:
    """The password of a user name."""
    rows = _FIND.rows(connection, {"username": username})
    if not rows:
        return None
    row = rows[0]
    return Password(
        row["username"],
        bytes(row["salt"]),
        bytes(row["hash"]),
        row["names"],
        row["uses_left"],
        at_moment(row["expires_ms"]) if row["expires_ms"] else None,
        at_moment(row["created_ms"]),
    )


def take_use(connection: Connection, username: str) -> None:
    """One use less, unless it has no limit."""
    connection.execute(_TAKE, {"user": username})
