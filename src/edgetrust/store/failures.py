"""What a database's refusal means for us: try again, or stop and look.

    cannot be reached, locked, full, read-only, out of memory     UnavailableError: nothing is lost, later may work
    not a database, malformed, a constraint broken, a missing table   IntegrityError: retrying will not mend it

Rules: every exception that SQLAlchemy or a driver raises becomes one of the two; statements and parameters never
reach a message, for parameters hold keys.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from edgetrust.errors import Error, IntegrityError, UnavailableError

_SQLITE_REASONS = {
    "SQLITE_FULL": ("store-full", "free some disk space"),
    "SQLITE_BUSY": ("store-busy", "another process holds the database; wait, or end it"),
    "SQLITE_LOCKED": ("store-busy", "another process holds the database; wait, or end it"),
    "SQLITE_READONLY": ("store-read-only", "make the database file and its directory writable for this user"),
    "SQLITE_CANTOPEN": ("store-unreachable", "make the directory of the database exist and writable for this user"),
    "SQLITE_IOERR": ("store-unreachable", "look at the disk: the operating system reported an input/output error"),
}
# SQLSTATE classes: connection, insufficient resources, operator intervention, system error, transaction rollback, not
# in the prerequisite state, read-only transaction.
_POSTGRES_AWAY = ("08", "53", "57", "58", "40", "55", "25")


def driver_errors() -> tuple[type[Exception], ...]:
    """The root errors of the drivers in use. psycopg is optional, and slow to import where nobody uses it."""
    postgres = sys.modules.get("psycopg")
    return (sqlite3.Error,) if postgres is None else (sqlite3.Error, postgres.Error)


def failure(problem: BaseException) -> Error:
    """What `problem`, raised by SQLAlchemy or by a driver, means."""
    original = problem.orig if isinstance(problem, DBAPIError) and problem.orig is not None else problem
    if isinstance(original, sqlite3.Error):
        return _sqlite(original)
    if isinstance(original, driver_errors()):
        return _postgres(original)
    return IntegrityError(f"the store failed: {type(original).__name__}", reason="store-failed")


def _sqlite(problem: sqlite3.Error) -> Error:
    name = getattr(problem, "sqlite_errorname", "") or ""
    for prefix, (reason, fix) in _SQLITE_REASONS.items():
        if name.startswith(prefix):
            return UnavailableError(f"the store cannot be used now: {problem}", reason=reason, fix=fix)
    if name.startswith("SQLITE_CONSTRAINT"):
        return IntegrityError(f"the store refused a row: {problem}", reason="store-constraint")
    return IntegrityError(f"the store is damaged or not ours: {problem}", reason="store-damaged")


def _postgres(problem: Exception) -> Error:
    state: str | None = getattr(problem, "sqlstate", None)
    what = type(problem).__name__
    if state is None or state.startswith(_POSTGRES_AWAY):
        full = state is not None and state.startswith("53")
        return UnavailableError(
            f"the store cannot be used now: {what}",
            reason="store-full" if full else "store-unreachable",
            fix="look at the PostgreSQL server: is it running, reachable, and has it room?",
        )
    if state.startswith("23"):
        return IntegrityError(f"the store refused a row: {what}", reason="store-constraint")
    return IntegrityError(f"the store refused a statement: {what} ({state})", reason="store-damaged")


@contextmanager
def translated() -> Iterator[None]:
    """Turn what SQLAlchemy and the drivers raise inside into UnavailableError or IntegrityError."""
    try:
        yield
    except SQLAlchemyError as problem:
        raise failure(problem) from problem
    except driver_errors() as problem:
        raise failure(problem) from problem
