"""Bring a database to the schema of this version, by Alembic; the migrations are part of the package.

Runs inside the caller's transaction, so that a migration happens whole or not at all on both engines, and two
processes that start together take turns.
"""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from edgetrust.errors import IntegrityError

_SCRIPTS = Path(__file__).parent / "migrations"
_ONE_AT_A_TIME = threading.Lock()  # Alembic keeps the environment of a migration in a module


def upgrade(connection: Connection) -> None:
    """Apply the migrations that are missing. IntegrityError if the database is of a later version than this one."""
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    if current == scripts.get_current_head():
        return
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise IntegrityError(
            f"the database has schema {current}, which this version does not know",
            reason="store-newer",
            fix="run the version that wrote it, or a later one",
        )
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")
