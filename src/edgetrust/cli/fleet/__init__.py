"""`edgetrust fleet`: a whole hierarchy from one file, and what it looks like."""

from edgetrust.cli.fleet.command import app

__all__ = ["app"]
