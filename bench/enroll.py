"""What an enrolment costs the certificate authority: CPU per certificate by EST, over one connection and over a new one
each, against the bare work in one process: read the request, verify it, sign a certificate, write the PKCS#7.

Prints `name ours reference ratio min/median/max`, microseconds of CPU per certificate; ours is the server process, with
TLS, HTTP, policy, lint, SQL (synced to the disk) and audit log.

Usage: python bench/enroll.py [--requests 400]
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from pathlib import Path
from statistics import median

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

ROUNDS = 5
EDGETRUST = Path(sys.executable).parent / "edgetrust"


def requests(count: int) -> list[bytes]:
    """CSRs of as many devices, DER."""
    made = []
    for number in range(count):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"device-{number}")])
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        made.append(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
    return made


def bare(csrs: list[bytes]) -> float:
    """Seconds of CPU for the bare work."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    begin = time.process_time()
    for der in csrs:
        asked = x509.load_der_x509_csr(der)
        assert asked.is_signature_valid
        builder = (
            x509.CertificateBuilder()
            .subject_name(asked.subject)
            .issuer_name(issuer)
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=90))
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(asked.public_key()), False)
        )
        base64.encodebytes(pkcs7.serialize_certificates([builder.sign(key, hashes.SHA256())], Encoding.DER))
    return time.process_time() - begin


class Server:
    """A certificate authority as a process of its own."""

    def __init__(self, directory: Path) -> None:
        run("ca", "init", "--dir", directory)
        self.config, self.root = directory / "ca.toml", directory / "root.cert.pem"
        shown = run("ca", "password", "bench", "--names", "*", "--uses", "0", "--json", "--config", self.config)
        password = json.loads(shown)["password"]
        self.headers = {
            "Authorization": "Basic " + base64.b64encode(f"bench:{password}".encode()).decode(),
            "Content-Type": "application/pkcs10",
        }
        command = [EDGETRUST, "ca", "serve", "-c", self.config, "--https-port", "0", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.port = int(json.loads(self.process.stdout.readline())["est"]["url"].split(":")[2].split("/")[0])
        self._tls = ssl.create_default_context(cafile=str(self.root))

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def connect(self) -> HTTPSConnection:
        return HTTPSConnection("localhost", self.port, context=self._tls, timeout=60)

    def ask(self, connection: HTTPSConnection, der: bytes) -> None:
        connection.request("POST", "/.well-known/est/simpleenroll", base64.encodebytes(der), self.headers)
        answer = connection.getresponse()
        body = answer.read()
        while answer.status == 429:
            time.sleep(float(answer.headers["Retry-After"]))
            connection.request("POST", "/.well-known/est/simpleenroll", base64.encodebytes(der), self.headers)
            answer = connection.getresponse()
            body = answer.read()
        assert answer.status == 200, body

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def run(*arguments: object) -> str:
    command = [str(EDGETRUST), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def kept(server: Server, csrs: list[bytes]) -> None:
    connection = server.connect()
    for der in csrs:
        server.ask(connection, der)
    connection.close()


def fresh(server: Server, csrs: list[bytes]) -> None:
    for der in csrs:
        connection = server.connect()
        server.ask(connection, der)
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--requests", type=int, default=400, help="enrolments of one measurement")
    count = parser.parse_args().requests
    csrs = requests(count)
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory) / "ca")
        try:
            loads: tuple[tuple[str, Callable[[Server, list[bytes]], None]], ...] = (
                ("enrolment, kept connection", kept),
                ("enrolment, new connection", fresh),
            )
            for name, load in loads:
                ours, reference = [], []
                for _ in range(ROUNDS):
                    begin = server.cpu()
                    load(server, csrs)
                    ours.append((server.cpu() - begin) / count * 1e6)
                    reference.append(bare(csrs) / count * 1e6)
                mine, theirs = median(ours), median(reference)
                print(
                    f"{name:<28} {mine:7.0f} us [{theirs:.0f} us] ratio {mine / theirs:4.1f}"
                    f"   {min(ours):.0f}/{mine:.0f}/{max(ours):.0f} of {ROUNDS}; {1e6 / mine:.0f} per CPU second",
                    flush=True,
                )
        finally:
            server.stop()


if __name__ == "__main__":
    main()
