"""What a database's refusal means for us."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
import pytest
import sqlalchemy.exc

from edgetrust.errors import IntegrityError, UnavailableError
from edgetrust.store.failures import failure, translated


def sqlite(name: str, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> sqlite3.Error:
    error = kind("what SQLite says")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (sqlite("SQLITE_FULL"), "store-full"),
        (sqlite("SQLITE_BUSY_SNAPSHOT"), "store-busy"),
        (sqlite("SQLITE_LOCKED"), "store-busy"),
        (sqlite("SQLITE_READONLY_DIRECTORY"), "store-read-only"),
        (sqlite("SQLITE_CANTOPEN"), "store-unreachable"),
        (sqlite("SQLITE_IOERR_WRITE"), "store-unreachable"),
        (psycopg.OperationalError("away"), "store-unreachable"),
        (psycopg.errors.DiskFull(), "store-full"),
        (psycopg.errors.AdminShutdown(), "store-unreachable"),
        (psycopg.errors.DeadlockDetected(), "store-unreachable"),
    ],
)
def test_what_may_work_later(problem: Exception, reason: str) -> None:
    found = failure(problem)
    assert isinstance(found, UnavailableError)
    assert found.reason == reason
    assert found.fix


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (sqlite("SQLITE_CONSTRAINT_UNIQUE", sqlite3.IntegrityError), "store-constraint"),
        (sqlite("SQLITE_CORRUPT", sqlite3.DatabaseError), "store-damaged"),
        (sqlite3.InterfaceError("no name"), "store-damaged"),
        (psycopg.errors.UniqueViolation(), "store-constraint"),
        (psycopg.errors.UndefinedTable(), "store-damaged"),
        (sqlalchemy.exc.InvalidRequestError("misused"), "store-failed"),
    ],
)
def test_what_will_never_work(problem: Exception, reason: str) -> None:
    found = failure(problem)
    assert isinstance(found, IntegrityError)
    assert found.reason == reason


def test_statements_and_parameters_are_not_told() -> None:
    wrapped: Any = sqlalchemy.exc.DBAPIError("INSERT secret", {"key": "secret"}, sqlite("SQLITE_FULL"))
    with pytest.raises(UnavailableError) as caught, translated():
        raise wrapped
    assert "secret" not in caught.value.diagnosis()
    assert caught.value.__cause__ is wrapped


def test_other_exceptions_pass() -> None:
    with pytest.raises(KeyError), translated():
        raise KeyError("x")
