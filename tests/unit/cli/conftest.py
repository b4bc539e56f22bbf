"""What the tests of commands share: running a command line in this process, certificates, and a hub that only
pretends.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from edgetrust.cli.demo_pki import DemoOptions, DemoPki, make_demo_pki
from edgetrust.cli.main import run

KEY = "MDEyMzQ1Njc4OWFiY2RlZg=="


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def edgetrust(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    monkeypatch.delenv("EDGETRUST_DIR", raising=False)

    def call(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoPki:
    directory = tmp_path_factory.mktemp("demo")
    return make_demo_pki(directory, datetime.now(UTC), DemoOptions(bad=True))


@dataclass
class PretendedHub:
    """Answers what it was told to and remembers what it was asked."""

    directory: Path
    port: int = 0
    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: Any, status: int = 200) -> None:
        self.answers[method, path] = (status, body)

    async def handle(self, request: web.Request) -> web.Response:
        content = await request.read()
        self.asked.append(
            {
                "method": request.method,
                "path": request.raw_path.split("?")[0],
                "query": dict(request.query),
                "headers": dict(request.headers),
                "content": content,
                "body": json.loads(content) if request.content_type == "application/json" and content else None,
            }
        )
        missing = {"Message": "ErrorCode:DeviceNotFound;there is no such device"}
        status, body = self.answers.get((request.method, self.asked[-1]["path"]), (404, missing))
        if callable(body):
            body = body(self.asked[-1])
        if body is None:
            return web.Response(status=status)
        return (
            web.json_response(body, status=status)
            if not isinstance(body, str)
            else web.Response(text=body, status=status)
        )


@pytest.fixture
def hub(demo: DemoPki, tmp_path: Path) -> Iterator[PretendedHub]:
    pretended = PretendedHub(tmp_path)
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(demo.hub.certificate_file, demo.hub.key_file)

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", pretended.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        assert site._server is not None
        pretended.port = site._server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    up = {
        "hub": {"hostname": "localhost", "mqtt_port": 8883, "https_port": pretended.port},
        "trust_bundle": str(demo.root.certificate_file),
        "service_connection_string": f"HostName=localhost;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}",
    }
    (tmp_path / "up.json").write_text(json.dumps(up))
    yield pretended
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()
