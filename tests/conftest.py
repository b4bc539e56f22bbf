"""What holds for every test: no test of a law fails because the machine was busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("edgetrust", deadline=None, print_blob=True)
settings.load_profile("edgetrust")
