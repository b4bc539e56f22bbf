"""Migrations of the store's schema, oldest first. A migration that was released is never edited."""
