"""The migrations make the schema that the program uses, on both engines."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from edgetrust.protocol.messages import Message
from edgetrust.store import ca_tables, configuration_tables, dps_schema, job_tables, migrate
from edgetrust.store.engine import Database
from edgetrust.store.lanes import QueuedMessage
from edgetrust.store.queue_tables import queued_messages
from edgetrust.store.schema import METADATA, events

for tables in (ca_tables.ca_audit, dps_schema.dps_registrations, configuration_tables.configurations, job_tables.jobs):
    assert tables.metadata is METADATA  # their import is what adds them


async def test_the_migrations_make_the_schema(database: Database) -> None:
    def difference(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, METADATA))

    assert await database.read(difference) == []


async def test_migrating_again_changes_nothing(database: Database) -> None:
    await database.migrate()
    tables = await database.read(lambda connection: sqlalchemy.inspect(connection).get_table_names())
    assert set(tables) == {*METADATA.tables, "alembic_version"}


def test_messages_are_stored_in_the_order_of_their_fields() -> None:
    assert tuple(events.c.keys())[1:] == Message._fields
    assert tuple(queued_messages.c.keys())[1:] == QueuedMessage._fields


def test_the_newest_migration_is_the_one_that_is_asked_for():
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.HEAD
