"""`edgetrust device export` and `import`: all identities of a hub as JSON lines, out and in again.

A scope names the generation of a gateway, which another hub makes anew. Therefore an import goes level by level: the
gateways at the top first, then what is below them, each with the scope that its parent has in this hub now; modules
come last.
"""

from __future__ import annotations

import json as encoding
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.client import HubClient, HubError
from edgetrust.cli.output import Json, print_json, print_line, say
from edgetrust.cli.registrations import parent_of
from edgetrust.errors import Error, UsageError
from edgetrust.limits import BULK_ITEMS, HTTP_BODY_BYTES
from edgetrust.pki.softkeys import write_private

MODES = ("createOrUpdate", "create", "update")
_SYSTEM_MODULES = ("$edgeAgent", "$edgeHub")
_SAY_EVERY = 1_000


class ImportIncompleteError(Error):
    """Some identities were not imported; each is named on stderr."""


@at_hub
async def export(
    client: HubClient,
    *,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Mode 0600, replaced. Default: stdout.")
    ] = None,
    exclude_keys: Annotated[bool, typer.Option("--exclude-keys", help="Leave symmetric keys out.")] = False,
) -> None:
    kept: list[bytes] = []
    written = 0
    query = {"excludeKeys": str(exclude_keys).lower()}
    async for page in client.pages("GET", ("edgetrust", "identities"), query=query):
        if file is None:
            sys.stdout.write(page.decode())
        else:
            kept.append(page)
        before, written = written, written + page.count(b"\n")
        if before // _SAY_EVERY != written // _SAY_EVERY:
            say(f"{written} identities")
    if file is not None:
        write_private(file, b"".join(kept))
    say(f"exported {written} identities, {'without' if exclude_keys else 'with'} symmetric keys")


@dataclass
class _Entry:
    line: int
    body: dict[str, Any]

    @property
    def name(self) -> str:
        module = self.body.get("moduleId")
        return f"{self.body['id']}/{module}" if module else str(self.body["id"])


@dataclass
class _Import:
    client: HubClient
    total: int
    done: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)
    scopes: dict[str, str | None] = field(default_factory=dict)

    async def send(self, entries: Sequence[_Entry]) -> None:
        for batch in _batches(entries):
            bodies = [await self._placed(entry) for entry in batch]
            answer = await self.client.request("POST", ("devices",), body=bodies, also=(400,))
            if "errors" not in (answer or {}):
                raise UsageError(f"lines {batch[0].line} to {batch[-1].line}: {answer}", reason="import-refused")
            lines = {entry.name: entry.line for entry in batch}
            for error in answer["errors"]:
                module = error.get("moduleId")
                name = f"{error['deviceId']}/{module}" if module else str(error["deviceId"])
                self._fail(lines.get(name, batch[0].line), name, str(error["errorCode"]), str(error["errorStatus"]))
            before, self.done = self.done, self.done + len(batch)
            if before // _SAY_EVERY != self.done // _SAY_EVERY:
                say(f"{self.done} of {self.total}")

    def _fail(self, line: int, name: str, code: str, text: str) -> None:
        self.failed.append({"line": line, "identity": name, "error": code, "message": text})
        say(f"line {line}: {name}: {code}: {text}")

    async def _placed(self, entry: _Entry) -> dict[str, Any]:
        """The body with the scope that its parent has in this hub."""
        body = {name: value for name, value in entry.body.items() if name not in ("eTag", "twinETag")}
        parent = _parent(body)
        body.pop("deviceScope", None)
        body.pop("parentScopes", None)
        if parent and body.get("importMode") != "delete":
            scope = await self._scope_of(parent)
            body["parentScopes"] = [scope or f"ms-azure-iot-edge://{parent}-0"]
        return body

    async def _scope_of(self, gateway: str) -> str | None:
        if gateway not in self.scopes:
            try:
                self.scopes[gateway] = (await self.client.get("devices", gateway)).get("deviceScope")
            except HubError:
                self.scopes[gateway] = None  # the hub says what is wrong with the child
        return self.scopes[gateway]


@at_hub
async def import_(
    client: HubClient,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines as `export` writes them; - is stdin.")],
    *,
    mode: Annotated[
        str, typer.Option("--mode", metavar="|".join(MODES), help="For lines without importMode.")
    ] = "createOrUpdate",
    json: Json = False,
) -> None:
    if mode not in MODES:
        raise UsageError(f"there is no mode {mode!r}", reason="import-mode-unknown", fix=f"one of {', '.join(MODES)}")
    entries = [_with_mode(entry, mode) for entry in _entries(file)]
    running = _Import(client, len(entries))
    for level in _levels(entries):
        await running.send(level)
    result = {"total": len(entries), "succeeded": len(entries) - len(running.failed), "errors": running.failed}
    if json:
        print_json(result)
    else:
        print_line(f"{result['succeeded']} of {result['total']} done")
    if running.failed:
        raise ImportIncompleteError(
            f"{len(running.failed)} of {len(entries)} failed",
            reason="import-incomplete",
            fix="mend the lines named above and import them again",
        )


def _entries(file: Path) -> Iterator[_Entry]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"{file} cannot be read: {problem}", reason="file-unreadable") from problem
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            body = encoding.loads(line)
        except (ValueError, RecursionError) as problem:
            raise UsageError(f"{file}, line {number} is not JSON: {problem}", reason="import-malformed") from problem
        if not isinstance(body, dict) or not isinstance(body.get("id"), str):
            raise UsageError(
                f"{file}, line {number} is no identity",
                reason="import-malformed",
                fix='one object per line, {"id": "DEVICE", ...}',
            )
        entry = _Entry(number, body)
        if entry.name in seen:
            raise UsageError(
                f"{file}, line {number}: {entry.name} stands in line {seen[entry.name]} already",
                reason="import-malformed",
            )
        seen[entry.name] = number
        yield entry


def _with_mode(entry: _Entry, mode: str) -> _Entry:
    said = entry.body.get("importMode") or mode
    if entry.body.get("moduleId") in _SYSTEM_MODULES and said == "create":
        said = "update"  # they come with their gateway
    return _Entry(entry.line, {**entry.body, "importMode": said})


def _levels(entries: Sequence[_Entry]) -> Iterator[list[_Entry]]:
    """Devices in the order of their depth, then modules; each level may be sent at once."""
    devices = {entry.name: entry for entry in entries if not entry.body.get("moduleId")}
    depth: dict[str, int] = {}
    for name in devices:
        way: list[str] = []
        step = name
        while step in devices and step not in depth and step not in way:
            way.append(step)
            step = _parent(devices[step].body)
        below = depth.get(step, -1)
        for one in reversed(way):
            below += 1
            depth[one] = below
    for level in range(max(depth.values(), default=-1) + 1):
        yield [entry for name, entry in devices.items() if depth[name] == level]
    yield [entry for entry in entries if entry.body.get("moduleId")]


def _parent(body: dict[str, Any]) -> str:
    """The gateway above: from parentScopes, or from deviceScope for what is no gateway itself."""
    scopes = body.get("parentScopes")
    scope = body.get("deviceScope")
    if not scopes and isinstance(scope, str) and not (body.get("capabilities") or {}).get("iotEdge"):
        scopes = [scope]
    return parent_of({"parentScopes": scopes}) if isinstance(scopes, list) else ""


def _batches(entries: Sequence[_Entry]) -> Iterator[list[_Entry]]:
    """As many as one request takes, by number and by bytes."""
    batch: list[_Entry] = []
    size = 0
    for entry in entries:
        length = len(encoding.dumps(entry.body)) + 300  # a scope may be added
        if batch and (len(batch) == BULK_ITEMS or size + length > HTTP_BODY_BYTES // 2):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += length
    if batch:
        yield batch
