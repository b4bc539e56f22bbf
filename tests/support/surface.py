"""Which client was seen to use which part of the surface, and the page that says so.

    @surface(NODE_DEVICE, "twins", "methods")
    def test_...

claims that this test drives that client, unmodified, through these entries (hub specification 18.1 and 18.2). A run of
all tests, or of all that claim something (`make test ARGS="-m surface"`), ends with the page as the passed tests make
it: in CI the run fails when the page in the repository is another one, elsewhere it is written. Any other run leaves
the page alone.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from typing import Any

import pytest

from support.pages import ROOT

PAGE = ROOT / "docs" / "reference" / "compatibility.md"
MINIMAL, FULL, EST = "Minimal surface", "Full surface", "Enrolment over Secure Transport"

PYTHON_DEVICE = "azure-iot-device (Python)"
PYTHON_SERVICE = "azure-iot-hub (Python)"
NODE_DEVICE = "azure-iot-device (Node)"
NODE_SERVICE = "azure-iothub (Node)"
NODE_PROVISIONING = "azure-iot-provisioning-device (Node)"
NODE_ENROLLMENTS = "azure-iot-provisioning-service (Node)"
PAHO, MQTT_JS, MOSQUITTO = "paho-mqtt (Python)", "mqtt (Node)", "mosquitto"
HTTP = "plain HTTP"
CURL, STRONGSWAN = "curl and openssl", "strongSwan pki"
CLIENTS = (
    *(PYTHON_DEVICE, PYTHON_SERVICE, NODE_DEVICE, NODE_SERVICE, NODE_PROVISIONING, NODE_ENROLLMENTS),
    *(PAHO, MQTT_JS, MOSQUITTO, HTTP, CURL, STRONGSWAN),
)

# What the surface is made of: section, number there, and what clients do.
ENTRIES = {
    "tls": (MINIMAL, 1, "TLS 1.2 and 1.3 for `localhost` and 127.0.0.1; no client certificate breaks the handshake"),
    "connect-sas": (MINIMAL, 2, "Connect with a SAS token, as a device and as a module"),
    "connect-port": (MINIMAL, 2, "Connect with a port in the host name, in the user name and in the token"),
    "connect-thumbprint": (MINIMAL, 2, "Connect with a certificate by its SHA-1 or SHA-256 thumbprint"),
    "connect-ca": (MINIMAL, 2, "Connect with a certificate below a registered CA"),
    "refused": (MINIMAL, 2, "A wrong credential is refused in CONNACK, with a reason on record"),
    "telemetry": (MINIMAL, 2, "Telemetry with properties at QoS 1, acknowledged when stored"),
    "outputs": (MINIMAL, 2, "Telemetry of a module's output"),
    "take-over": (MINIMAL, 2, "A second connection takes over the first"),
    "c2d": (MINIMAL, 3, "Cloud-to-device messages"),
    "twins": (MINIMAL, 3, "Twins: get, report, desired properties"),
    "methods": (MINIMAL, 3, "Direct methods"),
    "sessions": (MINIMAL, 3, "Subscriptions outlive a cut connection and a renewed token"),
    "retry": (MINIMAL, 3, "CONNACK 3 while something is unavailable, and the client comes again"),
    "devices": (MINIMAL, 4, "Devices: create, get, list, update, delete; ETags"),
    "modules": (MINIMAL, 4, "Modules: create, get, list, update, delete; ETags"),
    "service-twins": (MINIMAL, 4, "Twins from the service side: get, patch, replace"),
    "service-methods": (MINIMAL, 4, "Direct methods called from the service side"),
    "errors": (MINIMAL, 4, "Errors that the client turns into its own classes"),
    "dps-mqtt": (MINIMAL, 5, "Provisioning over MQTT: individual and group, symmetric key and X.509"),
    "dps-https": (MINIMAL, 6, "Provisioning over HTTPS"),
    "identityd": (MINIMAL, 7, "Modules managed by their device, as `aziot-identityd` does"),
    "scope": (MINIMAL, 8, "Device scope for a gateway, and the gateway's own MQTT endpoint"),
    "possession": (MINIMAL, 9, "CA certificates with proof of possession"),
    "enrollments": (MINIMAL, 10, "Enrollments and enrollment groups"),
    "http-telemetry": (FULL, 11, "Telemetry over HTTPS, chunked and in batches"),
    "http-c2d": (FULL, 11, "Cloud-to-device messages over HTTPS: complete, reject, abandon"),
    "uploads": (FULL, 11, "File upload"),
    "websocket": (FULL, 12, "MQTT over WebSocket on 443"),
    "dps-websocket": (FULL, 12, "Provisioning over WebSocket"),
    "bulk": (FULL, 13, "Registry operations in bulk"),
    "statistics": (FULL, 13, "Registry and service statistics"),
    "query": (FULL, 13, "Queries, page by page"),
    "configurations": (FULL, 13, "Configurations, and their content applied to one device"),
    "jobs": (FULL, 13, "Jobs: methods and twins for many devices"),
    "reprovisioning": (FULL, 14, "Reprovision and allocation policies, disabled enrollments"),
    "amqp": (FULL, 15, "AMQP (left out of this version)"),
    "nested": (FULL, 16, "Gateways below gateways: `auth-chain`, registry on behalf of children"),
    "tpm": (FULL, 17, "TPM attestation"),
    "issuance": (FULL, 18, "Certificates issued by provisioning and over MQTT (preview)"),
    "digital-twins": (FULL, 19, "Digital twins"),
    "import-export": (FULL, 19, "Import and export of identities"),
    "est-cacerts": (EST, 20, "`cacerts`: the CAs, in a chain that strict verifiers accept"),
    "est-enroll": (EST, 20, "`simpleenroll` with a password or a certificate"),
    "est-reenroll": (EST, 20, "`simplereenroll` with the certificate that is renewed"),
    "est-csrattrs": (EST, 20, "`csrattrs`"),
    "est-serverkeygen": (EST, 20, "`serverkeygen`"),
    "est-waits": (EST, 20, "202 with Retry-After until a person has approved"),
    "est-refused": (EST, 20, "Refusals with a status and a reason"),
    "revocation": (EST, 21, "Revocation: CRL and OCSP"),
}
INTRODUCTION = """\
# Compatibility

<!-- Written at the end of a test run, from what its tests saw: `make test ARGS="-m surface"`. Do not edit. -->

Unmodified clients, and what each was seen to do with this version, by which test of this repository. "None yet" is
planned. The minimal surface comes first, then the rest. In words:
[Wire compatibility](wire-compatibility.md).

"""


def surface(client: str, *entries: str) -> pytest.MarkDecorator:
    """Claim entries for a client; see above."""
    assert client in CLIENTS, client
    assert entries, "which entries?"
    assert set(entries) <= set(ENTRIES), set(entries) - set(ENTRIES)
    return pytest.mark.surface(client, *entries)


def watch(config: pytest.Config) -> None:
    """Keep what the tests of this run claim."""
    config.addinivalue_line("markers", "surface(client, *entries): what a client is seen to do; see support.surface")
    config.pluginmanager.register(Surface(config), "surface")


class Surface:
    """Collects claims and outcomes; with several processes, in the one that starts the others."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seen: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._not_passed: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("surface"):
                client, *entries = mark.args
                item.user_properties += [("surface", [client, entry]) for entry in entries]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        claims = [value for name, value in report.user_properties if name == "surface"]
        if claims and not report.passed:
            self._not_passed.add(report.nodeid)
        elif report.when == "call":
            for client, entry in claims:
                self._seen[str(entry), str(client)].add(report.nodeid.partition("[")[0])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if hasattr(self._config, "workerinput") or exitstatus != 0 or not self._whole():
            return
        problem = ""
        if self._not_passed:
            problem = f"claimed, but not passed: {', '.join(sorted(self._not_passed))}"
        elif (text := page(self._seen)) != (PAGE.read_text() if PAGE.exists() else ""):
            if os.environ.get("CI"):
                problem = f'{PAGE.name} is out of date: make test ARGS="-m surface" writes it'
            else:
                PAGE.write_text(text)
                print(f"\n{PAGE.name} is written anew")
        if problem:
            print(f"\n{problem}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _whole(self) -> bool:
        """Whether every test that claims something was asked for."""
        options = self._config.option
        everywhere = self._config.args_source is not pytest.Config.ArgsSource.ARGS
        narrowed = (
            options.keyword,
            options.deselect,
            options.collectonly,
            options.ignore,
            getattr(options, "lf", False),
        )
        return everywhere and options.markexpr in ("", "surface") and not any(narrowed)


def page(seen: dict[tuple[str, str], set[str]]) -> str:
    """The page for what was seen: test functions by entry and client."""
    clients = [client for client in CLIENTS if any(one == client for _, one in seen)]
    parts = [INTRODUCTION.rstrip("\n"), _table(("client", "version"), [(name, _version(name)) for name in clients])]
    for section in (MINIMAL, FULL, EST):
        rows = []
        for entry in (key for key, value in ENTRIES.items() if value[0] == section):
            first = (str(ENTRIES[entry][1]), ENTRIES[entry][2])
            users = [client for client in CLIENTS if (entry, client) in seen]
            for place, client in enumerate(users):
                rows.append((*(("", "") if place else first), client, _tests(seen[entry, client])))
            if not users:
                rows.append((*first, "none yet", ""))
        parts.append(f"## {section}")
        parts.append(_table(("no.", "what", "client", "seen by"), rows))
    return "\n\n".join(parts) + "\n"


def _tests(tests: set[str]) -> str:
    """Files with the names of their tests."""
    files: dict[str, list[str]] = defaultdict(list)
    for test in sorted(tests):
        path, _, name = test.partition("::")
        files[path].append(name.rpartition("::")[2])
    return "; ".join(
        f"[{path.rpartition('/')[2]}](../../{path}): {', '.join(f'`{name}`' for name in names)}"
        for path, names in files.items()
    )


def _version(client: str) -> str:
    """What the lock files have; other programs are those of the distribution."""
    if client == HTTP:
        return "curl, aiohttp"
    package, _, language = client.partition(" (")
    if language == "Node)":
        wanted: dict[str, Any] = json.loads((ROOT / "tests/interop/node/package.json").read_text())
        return str(wanted["dependencies"][package])
    locked = [(ROOT / "requirements" / name).read_text() for name in ("dev.txt", "azure.txt")]
    found = re.search(rf"^{re.escape(package)}==(\S+)", "\n".join(locked), re.MULTILINE)
    return found[1] if found else "of the distribution"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ("---",) * len(header), *rows))
