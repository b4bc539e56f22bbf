"""`edgetrust ca` and `edgetrust audit`, without a server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.pki.chain import Chain
from support.ca import csr
from support.pki import openssl

Call = Callable[..., Any]


@pytest.fixture
def made(edgetrust: Call, tmp_path: Path) -> Path:
    """A fresh authority; its ca.toml."""
    outcome = edgetrust("ca", "init", "--dir", tmp_path / "ca", "--organization", "Contoso", "--department", "Plant")
    assert outcome.code == 0, outcome.err
    assert "guard: " in outcome.err
    return tmp_path / "ca" / "ca.toml"


def write_csr(directory: Path, name: str) -> Path:
    path = directory / f"{name}.csr.pem"
    path.write_bytes(x509.load_der_x509_csr(csr(name)).public_bytes(Encoding.PEM))
    return path


def test_init_makes_a_hierarchy_that_openssl_verifies(edgetrust: Call, made: Path) -> None:
    listed = edgetrust("ca", "list", "--authorities", "--config", made, "--json").json()
    assert [(one["name"], one["parent"]) for one in listed] == [
        ("root", None),
        ("department-1", "root"),
        ("edge", "department-1"),
        ("devices", "department-1"),
        ("servers", "department-1"),
        ("bootstrap", "department-1"),
    ]
    folder = made.parent
    for name in ("edge", "devices", "servers", "bootstrap"):
        said = openssl("verify", "-x509_strict", "-CAfile", "root.cert.pem", "-untrusted", "department-1.cert.pem",
                       f"{name}.cert.pem", cwd=folder)  # fmt: skip
        assert said.returncode == 0, said.stderr
    assert [path.stat().st_mode & 0o777 for path in (folder / "keys").iterdir()] == [0o600] * 6
    again = edgetrust("ca", "init", "--dir", folder)
    assert (again.code, "exists already" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--organization", "x" * 80), "at most 64 bytes"),
        (("--organization", 'a"b'), "cannot be used here"),
        (("--pkcs11-token", "t"), "a token needs"),
        (("--name", "a\nb"), "cannot be used here"),
    ],
)
def test_an_init_that_fails_leaves_nothing(
    edgetrust: Call, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    outcome = edgetrust("ca", "init", "--dir", tmp_path / "ca", *arguments)
    assert (outcome.code, words in outcome.err) == (2, True)
    assert not (tmp_path / "ca").exists()


def test_issue_list_export_and_forecast(edgetrust: Call, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "dev1.pem"
    said = edgetrust("ca", "issue", write_csr(tmp_path, "dev1"), "--days", "20", "--out", out, "--config", made)
    assert said.code == 0, said.err
    chain = Chain.from_pem(out.read_bytes())
    assert len(chain.certificates) == 4
    (row,) = edgetrust("ca", "list", "--identity", "dev1", "--config", made, "--json").json()
    assert int(row["serial"], 16) == chain.end_entity.serial_number
    exported = edgetrust("ca", "export", "--serial", row["serial"], "--config", made).out
    assert Chain.from_pem(exported).certificates == chain.certificates
    bundle = edgetrust("ca", "export", "--config", made).out
    assert Chain.from_pem(bundle).certificates == chain.certificates[-1:]
    (ending,) = edgetrust("ca", "forecast", "--days", "25", "--config", made, "--json").json()
    assert (ending["kind"], ending["name"]) == ("device", "dev1")
    assert edgetrust("ca", "forecast", "--days", "15", "--config", made, "--json").json() == []
    ics = tmp_path / "ends.ics"
    edgetrust("ca", "forecast", "--days", "25", "--ics", ics, "--config", made)
    text = ics.read_bytes().decode()
    assert text.startswith("BEGIN:VCALENDAR\r\n")
    assert text.count("BEGIN:VEVENT") == 1
    assert "SUMMARY:device certificate of dev1 ends" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("issue", "nowhere.pem"), "cannot be read"),
        (("issue", "CSR", "--profile", "nonsense"), "there is no profile"),
        (("issue", "CSR", "--profile", "root"), "there is no profile"),
        (("issue", "CSR", "--authority", "nobody"), "there is no CA"),
        (("issue", "CSR", "--profile", "gateway-server"), "san"),
        (("issue", "CSR", "--profile", "edge-ca", "--authority", "devices"), "path-length"),
        (("export", "--serial", "00"), "no certificate has"),
        (("revoke", "--serial", "00"), "there is no certificate"),
        (("revoke",), "either --serial or --identity"),
        (("approve", "ab"), "no request waits"),
        (("release", "x"), "nobody has claimed"),
        (("install", "x", "CSR"), ""),
        (("request", "x/y", "--common-name", "x"), "cannot name a CA"),
    ],
)
def test_what_cannot_be_done(
    edgetrust: Call, made: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    request = write_csr(tmp_path, "dev1")
    given = [str(request) if one == "CSR" else one for one in arguments]
    outcome = edgetrust("ca", *given, "--config", made)
    assert outcome.code != 0
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert edgetrust("ca", "list", "--identity", "dev1", "--config", made, "--json").json() == []


def test_revoke_shows_first(edgetrust: Call, made: Path, tmp_path: Path) -> None:
    edgetrust("ca", "issue", write_csr(tmp_path, "dev1"), "--out", tmp_path / "x.pem", "--config", made)
    shown = edgetrust("ca", "revoke", "--identity", "dev1", "--dry-run", "--config", made, "--json").json()
    assert shown["revoked"] is False
    assert shown["depending"] == [{"what": "dev1 has none left and must enrol anew", "count": 0}]
    assert edgetrust("ca", "list", "--revoked", "--config", made, "--json").json() == []
    wrong = edgetrust("ca", "revoke", "--identity", "dev1", "--reason", "boredom", "--config", made)
    assert (wrong.code, "there is no reason" in wrong.err) == (2, True)
    assert edgetrust("ca", "revoke", "--identity", "dev1", "--reason", "superseded", "--config", made).code == 0
    (row,) = edgetrust("ca", "list", "--revoked", "--config", made, "--json").json()
    assert row["revoked"]["reason"] == "superseded"
    crl = x509.load_pem_x509_crl(edgetrust("ca", "crl", "edge", "--config", made).out.encode())
    assert [entry.serial_number for entry in crl] == [int(row["serial"], 16)]


def test_two_companies_share_a_chain_by_files(edgetrust: Call, made: Path, tmp_path: Path) -> None:
    """The manufacturer's CA below the customer's root: neither sees the other's keys."""
    maker = tmp_path / "maker"
    maker.mkdir()
    (maker / "ca.toml").write_text("[ca]\n")
    asked, chain = tmp_path / "maker.csr", tmp_path / "maker.chain.pem"
    config = ("--config", maker / "ca.toml")
    subject = ("--common-name", "Maker CA", "--organization", "Maker")
    assert edgetrust("ca", "request", "factory", *subject, "--out", asked, *config).code == 0
    said = edgetrust("ca", "issue", asked, "--profile", "intermediate", "--path-length", "1", "--authority", "root",
                     "--out", chain, "--config", made)  # fmt: skip
    assert said.code == 0, said.err
    other = edgetrust("ca", "install", "factory", made.parent / "edge.cert.pem", *config)
    assert (other.code, "does not belong" in other.err) == (4, True)
    assert edgetrust("ca", "install", "factory", chain, "--profile", "device", *config).code == 0
    out = tmp_path / "d.pem"
    said = edgetrust("ca", "issue", write_csr(tmp_path, "d"), "--authority", "factory", "--out", out, *config)
    assert said.code == 0, said.err
    checked = openssl("verify", "-x509_strict", "-CAfile", str(made.parent / "root.cert.pem"), "-untrusted", str(chain),
                      str(out))  # fmt: skip
    assert checked.returncode == 0, checked.stderr


def test_the_audit_log_shows_what_was_changed_behind_its_back(edgetrust: Call, made: Path, tmp_path: Path) -> None:
    edgetrust("ca", "issue", write_csr(tmp_path, "dev1"), "--out", tmp_path / "x.pem", "--config", made)
    verified = edgetrust("audit", "verify", "--config", made, "--json").json()
    assert (verified["intact"], verified["records"]) == (True, 7)
    (issued,) = edgetrust("audit", "list", "--event", "issued", "--config", made, "--json").json()
    assert (issued["identity"], issued["hash"]) == ("dev1", verified["head"])
    edgetrust("ca", "revoke", "--identity", "dev1", "--config", made)
    assert edgetrust("audit", "verify", "--head", verified["head"], "--config", made).code == 0
    database = sqlite3.connect(made.parent / "ca.sqlite")

    database.isolation_level = None
    rows = database.execute("SELECT * FROM ca_audit ORDER BY seq").fetchall()

    def restore() -> None:
        database.execute("DELETE FROM ca_audit")
        marks = ", ".join("?" * len(rows[0]))
        database.executemany(f"INSERT INTO ca_audit VALUES ({marks})", rows)

    for statement in (
        "UPDATE ca_audit SET identity = 'dev2' WHERE event = 'issued'",
        "DELETE FROM ca_audit WHERE event = 'issued'",
        "DELETE FROM ca_audit WHERE seq = 1",
    ):
        database.execute(statement)
        outcome = edgetrust("audit", "verify", "--config", made)
        assert (outcome.code, "does not fit" in outcome.err) == (4, True), statement
        restore()
    head = edgetrust("audit", "verify", "--config", made, "--json").json()["head"]
    database.execute("DELETE FROM ca_audit WHERE event = 'revoked'")
    assert edgetrust("audit", "verify", "--config", made).code == 0, "a shorter chain is a chain"
    cut = edgetrust("audit", "verify", "--head", head, "--config", made)
    assert (cut.code, "newest records are missing" in cut.err) == (4, True)
    database.close()


def test_a_password_is_shown_once(edgetrust: Call, made: Path, tmp_path: Path) -> None:
    first = edgetrust("ca", "password", "dev1", "--config", made)
    assert len(first.out.strip()) == 32
    given = tmp_path / "p"
    given.write_text("chosen\n")
    second = edgetrust("ca", "password", "dev1", "--password-file", given, "--config", made)
    assert (second.code, second.out) == (0, "")
    held = b"".join(path.read_bytes() for path in made.parent.glob("ca.sqlite*"))
    assert first.out.strip().encode() not in held
    assert edgetrust("ca", "password", "a:b", "--config", made).code == 2
