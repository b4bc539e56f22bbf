"""schemathesis asks a running hub what its own description says is possible, and much that is not. The hub never
fails, and answers with statuses, media types and bodies that are described.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.hub import World, new_pki, run, running
from support.pages import ROOT

SCHEMATHESIS = ROOT / ".venv-judges" / "bin" / "schemathesis"
SECONDS = 40
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
KNOWN = {"device": ["d1", "edge"], "module": ["m1", "$edgeAgent"], "name": ["one", "service"]}
LEFT_OUT = r"rollKey|\$iothub/websocket"  # would lock the judge out; is no HTTP


async def test_the_hub_does_what_its_description_says(tmp_path: Path) -> None:
    async with running(tmp_path / "hub", new_pki(tmp_path / "pki")) as world:
        await _inhabit(world)
        answer = await world.ask("GET", "/edgetrust/openapi.json", token=None, version=None)
        assert answer.status == 200
        described = tmp_path / "openapi.json"
        described.write_text(json.dumps(_prepared(answer.json)))
        code, output = await run(
            *("env", "--chdir", str(tmp_path)),  # where it leaves its cache
            *(str(SCHEMATHESIS), "run", str(described), "--url", world.base, "--tls-verify", str(world.root)),
            *("--header", f"Authorization: {world.service_token()}", "--exclude-path-regex", LEFT_OUT),
            *("--phases", "coverage,fuzzing", "--max-examples", "3", "--seed", "1", "--max-time", str(SECONDS)),
            *("--checks", CHECKS, "--continue-on-failure", "--no-shrink", "--warnings", "off"),
            seconds=SECONDS + 80,
        )
        text = output.decode(errors="replace")
        assert code == 0, text[-6000:]
        assert f"Tested: {len(_operations(answer.json)) - 2}" in text, text[-2000:]
        assert (await world.ask("GET", "/edgetrust/health")).status == 200


async def _inhabit(world: World) -> None:
    """Something to find: without it every answer would be 404."""
    await world.create("d1", tags={})
    await world.create_module("d1", "m1")
    await world.gateway("edge")
    body = {"id": "one", "content": {"modulesContent": {"m1": {"properties.desired": {}}}}}
    assert (await world.ask("PUT", "/configurations/one", body)).status == 200


def _prepared(document: dict[str, Any]) -> dict[str, Any]:
    """Names that exist beside those that do not; and no waiting, which is right and takes long."""
    for operation in _operations(document):
        operation["parameters"] = [one for one in operation["parameters"] if one["name"] != "wait_seconds"]
        for parameter in operation["parameters"]:
            if parameter["in"] == "path" and parameter["name"] in KNOWN:
                parameter["schema"] = {"anyOf": [{"enum": KNOWN[parameter["name"]]}, parameter["schema"]]}
    return document


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for methods in document["paths"].values() for operation in methods.values()]
