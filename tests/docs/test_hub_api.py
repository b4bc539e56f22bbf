"""The page on the hub's HTTPS interface names every route, and no other."""

from __future__ import annotations

import re

import pytest

from edgetrust.hub.rest.app import defined_routes
from edgetrust.trust.policies import Right
from support.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "hub-api.md").read_text()
ROUTES = defined_routes()


def test_every_route_is_documented() -> None:
    documented = re.findall(r"^\| `([A-Z]+ /\S*)` \|", PAGE, re.MULTILINE)
    assert sorted(documented) == sorted(f"{route.method} {route.path}" for route in ROUTES)


@pytest.mark.parametrize("right", list(Right))
def test_every_right_is_named(right: Right) -> None:
    assert f"`{right.value}`" in PAGE
