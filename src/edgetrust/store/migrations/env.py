"""Alembic's entry: run the migrations on the connection, and inside the transaction, that `migrate` was given."""

from __future__ import annotations

from alembic import context

from edgetrust.store.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
