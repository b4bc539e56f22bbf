"""Enrolling the devices of a CSV file, a batch per request, with progress.

The first row names the columns: `registration_id`, and any of `device_id`, `primary_key`, `secondary_key`,
`certificate`, `secondary_certificate` (files, relative to the CSV), `endorsement_key`, `storage_root_key` (base64),
`hub`, `edge`, `enabled` (true or false). Empty cells say nothing. Everything is read and checked before the first
request; what the service refuses is listed with its row, and the rest is done.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.certificates import read_chain
from edgetrust.cli.client import HubClient
from edgetrust.cli.output import Json, print_json, print_line, say
from edgetrust.errors import Error, UsageError
from edgetrust.limits import BULK_ENROLLMENTS
from edgetrust.pki.chain import Chain

_COLUMNS = frozenset(
    {
        *("registration_id", "device_id", "primary_key", "secondary_key", "certificate", "secondary_certificate"),
        *("endorsement_key", "storage_root_key", "hub", "edge", "enabled"),
    }
)
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class ImportFailedError(Error):
    """Some rows could not be enrolled."""


async def import_csv(
    client: HubClient,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV file with a header; see the guide.")],
    *,
    update: Annotated[bool, typer.Option("--update", help="Change those that exist instead of refusing them.")] = False,
    json: Json = False,
) -> None:
    """Enroll every row."""
    bodies = list(_bodies(file))
    mode = "update" if update else "create"
    failed: list[dict[str, Any]] = []
    for start in range(0, len(bodies), BULK_ENROLLMENTS):
        batch = bodies[start : start + BULK_ENROLLMENTS]
        failed += await _send(client, mode, batch)
        say(f"{start + len(batch)} of {len(bodies)} rows, {len(failed)} failed")
    if json:
        print_json({"rows": len(bodies), "enrolled": len(bodies) - len(failed), "failed": failed})
    else:
        for problem in failed:
            print_line(f"row {problem['row']}: {problem['registrationId']}: {problem['error']}")
    if failed:
        what = f"{len(failed)} of {len(bodies)} rows could not be enrolled"
        raise ImportFailedError(what, reason="import-incomplete")


async def _send(client: HubClient, mode: str, batch: list[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """One request. An update of what does not exist creates it."""
    rows = {str(body["registrationId"]).lower(): (number, body) for number, body in batch}
    errors = await _bulk(client, mode, [body for _, body in batch])
    missing = [str(error["registrationId"]).lower() for error in errors if error["errorCode"] // 1000 == 404]  # noqa: PLR2004
    if mode == "update" and missing:
        errors = [error for error in errors if error["errorCode"] // 1000 != 404]  # noqa: PLR2004
        errors += await _bulk(client, "create", [rows[name][1] for name in missing])
    return [
        {
            "row": rows[str(error["registrationId"]).lower()][0],
            "registrationId": error["registrationId"],
            "error": error["errorStatus"],
        }
        for error in errors
    ]


async def _bulk(client: HubClient, mode: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answer = await client.post("enrollments", body={"mode": mode, "enrollments": bodies})
    errors: list[dict[str, Any]] = answer["errors"]
    return errors


def _bodies(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row numbers and enrollments. Raises UsageError for the first row that cannot be one."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            unknown = set(reader.fieldnames or ()) - _COLUMNS
            if unknown or "registration_id" not in (reader.fieldnames or ()):
                raise UsageError(
                    f"{file}: no column registration_id, or unknown columns {', '.join(sorted(map(str, unknown)))}",
                    reason="csv-columns",
                    fix=f"columns are {', '.join(sorted(_COLUMNS))}",
                )
            seen: dict[str, int] = {}
            for row in reader:
                body = _body(file, reader.line_num, row)
                first = seen.setdefault(str(body["registrationId"]).lower(), reader.line_num)
                if first != reader.line_num:
                    raise _wrong(file, reader.line_num, f"{body['registrationId']} stands in row {first} too")
                yield reader.line_num, body
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise UsageError(f"{file} cannot be read: {problem}", reason="file-unreadable") from problem


def _body(file: Path, number: int, row: dict[str | None, Any]) -> dict[str, Any]:
    if None in row:
        raise _wrong(file, number, "more cells than columns")
    cells = {str(name): value.strip() for name, value in row.items() if value is not None and value.strip()}
    name = cells.get("registration_id")
    if not name:
        raise _wrong(file, number, "registration_id is empty")
    body: dict[str, Any] = {"registrationId": name, "attestation": _attestation(file, cells)}
    if "device_id" in cells:
        body["deviceId"] = cells["device_id"]
    if "hub" in cells:
        body.update(iotHubHostName=cells["hub"], allocationPolicy="static")
    if "edge" in cells:
        body["capabilities"] = {"iotEdge": _word(file, number, cells["edge"])}
    if "enabled" in cells:
        body["provisioningStatus"] = "enabled" if _word(file, number, cells["enabled"]) else "disabled"
    return body


def _attestation(file: Path, cells: dict[str, str]) -> dict[str, Any]:
    if "certificate" in cells:
        pair = {"primary": cells["certificate"], "secondary": cells.get("secondary_certificate")}
        held = {slot: {"certificate": _pem(file, name)} for slot, name in pair.items() if name}
        return {"type": "x509", "x509": {"clientCertificates": held}}
    if "endorsement_key" in cells:
        keys = {"endorsementKey": cells["endorsement_key"], "storageRootKey": cells.get("storage_root_key")}
        return {"type": "tpm", "tpm": keys}
    keys = {"primaryKey": cells.get("primary_key"), "secondaryKey": cells.get("secondary_key")}
    return {"type": "symmetricKey", "symmetricKey": keys}


def _pem(file: Path, name: str) -> str:
    return Chain(read_chain(file.parent / name).certificates[:1]).pem()


def _word(file: Path, number: int, text: str) -> bool:
    value = _WORDS.get(text.lower())
    if value is None:
        raise _wrong(file, number, f"{text[:20]!r} is neither true nor false")
    return value


def _wrong(file: Path, number: int, what: str) -> UsageError:
    return UsageError(f"{file}, row {number}: {what}", reason="csv-row")
