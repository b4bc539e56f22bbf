"""Bring a database to the schema of this version, by Alembic; the migrations are part of the package.

Runs inside the caller's transaction, so that a migration happens whole or not at all on both engines, and two
processes that start together take turns. Alembic is imported only when there is something to do: it is a fifth of the
time that a hub needs to start.
"""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import Connection, inspect

from edgetrust.errors import IntegrityError

HEAD = "0012"  # the newest migration's number; a test compares it with Alembic's
_SCRIPTS = Path(__file__).parent / "migrations"
_ONE_AT_A_TIME = threading.Lock()  # Alembic keeps the environment of a migration in a module


def upgrade(connection: Connection) -> None:
    """Apply the migrations that are missing. IntegrityError if the database is of a later version than this one."""
    if _stored_revision(connection) != HEAD:
        _migrate(connection)


def _stored_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return revision


def _migrate(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    current = _stored_revision(connection)
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise IntegrityError(
            f"the database has schema {current}, which this version does not know",
            reason="store-newer",
            fix="run the version that wrote it, or a later one",
        )
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")
