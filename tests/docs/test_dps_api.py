"""The page on the provisioning API names every route and right, and no other."""

from __future__ import annotations

import re

import pytest
from aiohttp import web

from edgetrust.protocol.dps import errors
from edgetrust.provisioning.rest import certificates, devices, enrollments, operations
from edgetrust.trust.policies import DpsRight
from support.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "dps-api.md").read_text()


def routes() -> set[str]:
    app = web.Application()
    enrollments.add_routes(app)
    for module in (certificates, devices, operations):
        app.add_routes(module.routes)
    found = set()
    for route in app.router.routes():
        assert route.resource is not None
        path, pattern = route.resource.canonical, str(route.resource.get_info().get("pattern", ""))
        if path.startswith("/{noun}"):
            noun = next(one for one in ("enrollmentGroups", "enrollments", "registrations") if one in pattern)
            path = f"/{noun}{path.removeprefix('/{noun}')}".rstrip("/")
        if route.method != "HEAD":
            found.add(f"{route.method} {path}")
    return found


def test_every_route_is_documented() -> None:
    assert set(re.findall(r"^\| `([A-Z]+ /\S*)` \|", PAGE, re.MULTILINE)) == routes()


@pytest.mark.parametrize("right", list(DpsRight))
def test_every_right_is_named(right: DpsRight) -> None:
    assert f"`{right.value}`" in PAGE


def test_every_code_is_named() -> None:
    codes = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}
    unused = {errors.FORBIDDEN, errors.METHOD_NOT_ALLOWED}
    assert {code for code in codes - unused if str(code) not in PAGE and code >= 1000} == set()
