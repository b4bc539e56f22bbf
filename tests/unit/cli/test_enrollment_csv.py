"""Enrolling from a CSV file: everything is read before the first request, and each row that fails is named."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from edgetrust.cli.enrollment_csv import ImportFailedError, import_csv
from edgetrust.errors import UsageError
from edgetrust.limits import BULK_ENROLLMENTS
from support.pki import self_signed


class Service:
    """What the service answers: `codes` by registration identifier, on creating."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.asked: list[dict[str, Any]] = []

    async def post(self, *path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == ("enrollments",)
        self.asked.append(body)
        names = [one["registrationId"] for one in body["enrollments"]]
        codes = self.codes if body["mode"] == "create" else dict.fromkeys(names, 404_201)
        errors = [
            {"registrationId": name, "errorCode": codes[name], "errorStatus": "why"} for name in names if name in codes
        ]
        return {"isSuccessful": not errors, "errors": errors}


def run(service: Service, file: Path, **options: Any) -> None:
    asyncio.run(import_csv(service, file, **options))  # type: ignore[arg-type]  # as much of a client as it uses


def csv(folder: Path, text: str) -> Path:
    file = folder / "devices.csv"
    file.write_text(text)
    return file


def test_a_row_of_each_kind(tmp_path: Path) -> None:
    (tmp_path / "pump.pem").write_text(self_signed("x1").chain.pem())
    file = csv(
        tmp_path,
        "\ufeffregistration_id,device_id,primary_key,certificate,endorsement_key,hub,edge,enabled\r\n"
        "k1,north,QUJD,,,,,\r\n"
        "x1,,,pump.pem,,hub-2,TRUE,no\r\n"
        "t1,,,,AQI=,,,\r\n",
    )
    service = Service()
    run(service, file)
    (asked,) = service.asked
    assert asked["mode"] == "create"
    key, certificate, tpm = asked["enrollments"]
    assert key["attestation"]["symmetricKey"]["primaryKey"] == "QUJD"
    assert key["deviceId"] == "north"
    assert "BEGIN CERTIFICATE" in certificate["attestation"]["x509"]["clientCertificates"]["primary"]["certificate"]
    assert (certificate["iotHubHostName"], certificate["capabilities"]) == ("hub-2", {"iotEdge": True})
    assert certificate["provisioningStatus"] == "disabled"
    assert tpm["attestation"]["tpm"]["endorsementKey"] == "AQI="


def test_many_go_in_batches_with_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 2 * BULK_ENROLLMENTS + 1
    service = Service()
    run(service, csv(tmp_path, "registration_id\n" + "".join(f"d{n}\n" for n in range(count))))
    assert [len(body["enrollments"]) for body in service.asked] == [BULK_ENROLLMENTS, BULK_ENROLLMENTS, 1]
    assert capsys.readouterr().err.splitlines()[-1] == f"{count} of {count} rows, 0 failed"


def test_rows_that_fail_are_named_and_the_others_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportFailedError, match="1 of 3"):
        run(Service(b=409_000), csv(tmp_path, "registration_id\na\nb\nc\n"), json=True)
    said = json.loads(capsys.readouterr().out)
    assert said == {"rows": 3, "enrolled": 2, "failed": [{"row": 3, "registrationId": "b", "error": "why"}]}


def test_an_update_creates_what_is_missing(tmp_path: Path) -> None:
    service = Service()
    run(service, csv(tmp_path, "registration_id\na\nb\n"), update=True)
    assert [body["mode"] for body in service.asked] == ["update", "create"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "csv-columns"),
        ("name\na\n", "csv-columns"),
        ("registration_id,colour\na,red\n", "csv-columns"),
        ("registration_id\na\nA\n", "csv-row"),
        ("registration_id,edge\na,perhaps\n", "csv-row"),
        ("registration_id,device_id\n,x\n", "csv-row"),
        ("registration_id\na,b\n", "csv-row"),
        ('registration_id\n"a\n', "file-unreadable"),
        ("registration_id,certificate\na,nowhere.pem\n", "file-unreadable"),
    ],
)
def test_a_file_that_cannot_be_asks_nothing(tmp_path: Path, text: str, reason: str) -> None:
    service = Service()
    with pytest.raises(UsageError) as raised:
        run(service, csv(tmp_path, text))
    assert raised.value.reason == reason
    assert service.asked == []
