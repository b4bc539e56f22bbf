"""`edgetrust demo`: the article's story on loopback, as real processes, with evidence for every line."""

from edgetrust.cli.demo.command import app

__all__ = ["app"]
