"""File upload: the handshake, the place, and what must not be possible there."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from edgetrust.store.files import UploadedFiles
from support.hub import Answer, World


async def begin(world: World, name: str = "b.txt", device: str = "d1") -> Any:
    answer = await world.ask("POST", f"/devices/{device}/files", {"blobName": name}, token=world.token(device))
    assert answer.status == 200, answer
    return answer.json


async def put(world: World, place: Any, body: bytes, query: str = "", **headers: str) -> Answer:
    path = f"/{place['containerName']}/{quote(place['blobName'])}{place['sasToken']}{query}"
    return await world.ask("PUT", path, body, token=None, version=None, x_ms_blob_type="BlockBlob", **headers)


async def notify(world: World, place: Any, device: str = "d1", *, in_path: bool = False) -> Answer:
    body = {"isSuccess": True, "statusCode": 200, "statusDescription": "ok"}
    path = f"/devices/{device}/files/notifications"
    if in_path:
        path += f"/{place['correlationId']}"
    else:
        body["correlationId"] = place["correlationId"]
    return await world.ask("POST", path, body, token=world.token(device))


def files(world: World) -> dict[str, bytes]:
    top = world.directory / "uploads"
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


@pytest.mark.parametrize("in_path", [False, True])
async def test_whole(each_world: World, *, in_path: bool) -> None:
    world = each_world
    await world.create("d1")
    place = await begin(world, "logs/b 1.txt")
    assert place["hostName"] == f"localhost:{world.hub.https_port}"
    assert place["blobName"] == "d1/logs/b 1.txt"
    done = await put(world, place, b"content" * 100_000)
    assert (done.status, done.body) == (201, b"")
    assert done.headers["ETag"]
    assert (await notify(world, place, in_path=in_path)).status == 204
    assert files(world) == {"d1/logs%2Fb 1.txt": b"content" * 100_000}
    over = await put(world, place, b"again")
    assert (over.status, over.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")
    again = await notify(world, place)
    assert (again.status, again.error) == (400, "InvalidFileUploadCorrelationId")
    assert (world.directory / "uploads" / "d1" / "logs%2Fb 1.txt").stat().st_mode & 0o077 == 0


async def test_curl_puts_it_where_the_device_was_told(world: World) -> None:
    await world.create("d1")
    place = await begin(world)
    file = world.directory / "reading.bin"
    file.write_bytes(bytes(range(256)) * 5000)
    url = f"https://{place['hostName']}/{place['containerName']}/{place['blobName']}{place['sasToken']}"
    answer = await world.curl("-T", str(file), "-H", "x-ms-blob-type: BlockBlob", "-H", "Expect:", url)
    assert answer.status == 201
    assert files(world) == {"d1/b.txt": file.read_bytes()}


async def test_in_blocks(world: World) -> None:
    await world.create("d1")
    place = await begin(world)
    names = [base64.b64encode(b"%05d" % number).decode() for number in range(3)]
    puts = (put(world, place, b"%d" % n * 1000, f"&comp=block&blockid={quote(names[n], safe='')}") for n in range(3))
    assert [answer.status for answer in await asyncio.gather(*puts)] == [201, 201, 201]
    listed = "".join(f"<Latest>{names[n]}</Latest>" for n in (2, 0))
    missing = await put(world, place, b"<BlockList><Latest>eHh4</Latest></BlockList>", "&comp=blocklist")
    assert missing.status == 400
    assert "d1/b.txt" not in files(world)
    done = await put(world, place, f'<?xml version="1.0"?><BlockList>{listed}</BlockList>'.encode(), "&comp=blocklist")
    assert done.status == 201
    assert files(world) == {"d1/b.txt": b"2" * 1000 + b"0" * 1000}


async def test_nothing_leads_out_of_the_folder(world: World) -> None:
    await world.create("d1")
    for name in ("../../escape", "..", ".", "/etc/passwd", "a/../../b", "x" * 1024, "\u00e9/\u6f22" * 100):
        place = await begin(world, name)
        placed = await world.hub._parts.files.put(place["correlationId"], "d1", name, _chunks(b"x"))
        assert placed == 1
        assert (await notify(world, place)).status == 204
    top = world.directory / "uploads" / "d1"
    assert len(list(top.iterdir())) == 7
    assert all(path.is_file() and not path.name.startswith(".") for path in top.iterdir())
    for name in ("", "x" * 1025, "a\nb", "a\0b"):
        answer = await world.ask("POST", "/devices/d1/files", {"blobName": name}, token=world.token("d1"))
        assert answer.status == 400


async def test_the_address_is_for_one_file_of_one_device_for_an_hour(world: World) -> None:
    await world.create("d1")
    await world.create("d2")
    place = await begin(world)
    for wrong in (
        {**place, "blobName": "d1/c.txt"},
        {**place, "blobName": "d2/b.txt"},
        {**place, "sasToken": place["sasToken"][:-1] + "_"},
        {**place, "sasToken": "?sig=x"},
        {**place, "sasToken": ""},
    ):
        assert (await put(world, wrong, b"x")).status in (400, 403)
    assert (await notify(world, place, "d2")).error == "InvalidFileUploadCorrelationId"
    world.clock.advance(3601)
    assert (await put(world, place, b"x")).status == 403
    assert (await notify(world, place)).error == "ExpiredFileUploadCorrelationId"
    assert files(world) == {}


async def test_whoever_is_disabled_may_not_go_on(world: World) -> None:
    made = await world.create("d1")
    place = await begin(world)
    body = {**made, "status": "disabled"}
    assert (await world.ask("PUT", "/devices/d1", body, If_Match="*")).status == 200
    assert (await put(world, place, b"x")).status == 403
    assert files(world) == {}


async def test_ten_at_once(world: World) -> None:
    await world.create("d1")
    places = [await begin(world, f"{n}") for n in range(10)]
    full = await world.ask("POST", "/devices/d1/files", {"blobName": "x"}, token=world.token("d1"))
    assert (full.status, full.error) == (403, "DeviceMaximumActiveFileUploadLimitExceeded")
    assert (await notify(world, places[0])).status == 204
    await begin(world, "x")


async def _chunks(*pieces: bytes) -> Any:
    for piece in pieces:
        yield piece


class TestBounds:
    async def test_too_large_leaves_nothing(self, world: World) -> None:
        await world.create("d1")
        files_, place = world.hub._parts.files, await begin(world)
        files_._limit = 1000
        large = await put(world, place, b"x" * 1001)
        assert (large.status, large.headers["x-ms-error-code"]) == (413, "RequestBodyTooLarge")
        assert files(world) == {}
        for name in ("YQ==", "Yg=="):
            assert (await put(world, place, b"x" * 400, f"&comp=block&blockid={quote(name)}")).status == 201
        assert (await put(world, place, b"x" * 400, "&comp=block&blockid=Yw%3D%3D")).status == 413
        assert (await put(world, place, b"y" * 400, "&comp=block&blockid=YQ%3D%3D")).status in (201, 413)
        assert (await notify(world, place)).status == 204
        assert files(world) == {}

    async def test_a_sender_that_goes_away_leaves_nothing(self, tmp_path: Path) -> None:
        store = UploadedFiles(tmp_path)

        async def broken() -> Any:
            yield b"x" * 2_000_000
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await store.put("u", "d1", "b", broken())
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        assert await store.put("u", "d1", "b", _chunks(b"a", b"b")) == 2
        assert store.place("d1", "b").read_bytes() == b"ab"
