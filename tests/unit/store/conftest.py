"""Databases for the tests of the store."""

from support.database import clock, database, database_url, durable_url, postgres

__all__ = ["clock", "database", "database_url", "durable_url", "postgres"]
