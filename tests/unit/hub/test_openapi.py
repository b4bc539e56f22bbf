"""The description of the REST interface has every route, no other, and nothing that leads nowhere."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edgetrust.hub.rest.app import defined_routes
from edgetrust.hub.rest.openapi import ABOUT, document, name_of

ROUTES = defined_routes()
DOCUMENT = document(ROUTES)
OPERATIONS = [
    (method, path, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]


def test_the_table_has_every_handler_and_no_other() -> None:
    assert set(ABOUT) == {name_of(route) for route in ROUTES}


def test_every_route_is_described_and_no_other() -> None:
    described = sorted(f"{method.upper()} {path}" for method, path, _ in OPERATIONS)
    assert described == sorted(f"{route.method} {re.sub(r':[^}]*', '', route.path)}" for route in ROUTES)
    identifiers = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(identifiers)) == len(identifiers)


def test_every_reference_leads_somewhere() -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [one for member in value.values() for one in references(member)]
        return [one for member in value for one in references(member)] if isinstance(value, list) else []

    found = set(references(DOCUMENT))
    assert "#/components/schemas/DeviceBody" in found
    for reference in found:
        assert reference.rpartition("/")[2] in DOCUMENT["components"]["schemas"], reference


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=[f"{m} {p}" for m, p, _ in OPERATIONS])
def test_what_every_operation_says(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert {"400", "401"} <= set(operation["responses"])
    assert any(status.startswith(("2", "1")) for status in operation["responses"])
    placed = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
    assert placed == set(re.findall(r"\{(\w+)\}", path))
    version = any(one["name"] == "api-version" for one in operation["parameters"])
    assert version is not path.startswith(("/edgetrust/", "/metrics", "/$iothub/", "/device-files/"))
    assert ("requestBody" in operation) <= (method in ("put", "post", "patch"))
