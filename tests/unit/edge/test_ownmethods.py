"""What `$edgeHub` answers when it is called."""

from __future__ import annotations

import json

import pytest

from edgetrust.edge.ownmethods import answer
from edgetrust.errors import Error, RefusedError, UnavailableError

REFRESH = "RefreshDeviceScopeIdentityCache"


@pytest.mark.parametrize("payload", [b'{"deviceIds": ["a", "b/m"]}', b'{"deviceIds": [], "more": 1}'])
async def test_the_copy_is_new_before_the_answer(payload: bytes) -> None:
    done: list[str] = []

    async def synchronise() -> None:
        done.append("synchronised")

    said = await answer(REFRESH, payload, synchronise)
    assert (said.status, said.payload, done) == (200, b"null", ["synchronised"])


@pytest.mark.parametrize(
    "problem", [UnavailableError("the hub is away"), RefusedError("the hub refuses", reason="not-a-child")]
)
async def test_a_hub_that_does_not_say_what_it_has(problem: Error) -> None:
    async def synchronise() -> None:
        raise problem

    said = await answer(REFRESH, b'{"deviceIds": ["a"]}', synchronise)
    assert (said.status, json.loads(said.payload)) == (503, {"message": problem.message})


@pytest.mark.parametrize("payload", [b"", b"null", b"{}", b"[]", b'{"deviceIds": "a"}', b'{"deviceIds": [1]}', b"\xff"])
async def test_a_payload_that_names_nobody(payload: bytes) -> None:
    said = await answer(REFRESH, payload, _never)
    assert said.status == 400
    assert "deviceIds" in json.loads(said.payload)["message"]


async def test_ping_and_what_there_is_not() -> None:
    assert (await answer("ping", b"", _never)).status == 200
    said = await answer("Reboot", b"", _never)
    assert said.status == 404
    assert "Reboot" in json.loads(said.payload)["message"]


async def _never() -> None:
    raise AssertionError("nothing is to be refreshed")
