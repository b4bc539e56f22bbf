"""What an enrolment costs the certificate authority: CPU of its process per certificate by EST over mutual TLS, over
connections that are kept and over a new one each, against the bare work in one process: read the request, verify it,
sign a certificate, write the PKCS#7.

    python bench/enroll.py [--requests 400] [--rounds 5] [--only TEXT]

Prints `name ours reference ratio min/median/max`, microseconds of CPU per certificate. Ours is everything that the
server's process does: TLS, HTTP, policy, lint, SQL (synced to the disk) and audit log. The client that enrols is a
gateway's installer with a bootstrap certificate that takes a new name each time; one that renews shows the certificate
it renews. Below the lines, for orientation, in the same run: `openssl ca` (a process signs all requests in one batch)
and, where Go is installed, a small EST server in Go (`bench/goca`), that does no more than TLS, HTTP, the signature
and a synced line in a file.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPSConnection
from itertools import count
from pathlib import Path
from statistics import median

from enroll_references import bare, go_server, make_requests, openssl_ca

EDGETRUST = Path(sys.executable).parent / "edgetrust"
CLIENTS = 16  # connections at once in the lines that say so
RATIO_AT_MOST = 3.0
_TICK = os.sysconf("SC_CLK_TCK")


class Server:
    """A process that answers EST, and a client's credentials for it."""

    def __init__(self, process: subprocess.Popen[str], port: int, root: Path, label: str = "") -> None:
        self.process, self.port, self.label = process, port, label
        self._root = root
        self._hosts = count(1)

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def client(self, pem: Path) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._root))
        context.load_cert_chain(pem)
        return context

    def connect(self, context: ssl.SSLContext) -> HTTPSConnection:
        """A connection from an address of its own: what one address may ask is limited."""
        number = next(self._hosts)
        source = (f"127.{1 + number // 62_500 % 250}.{1 + number // 250 % 250}.{1 + number % 250}", 0)
        connection = HTTPSConnection("localhost", self.port, context=context, timeout=60, source_address=source)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def ask(connection: HTTPSConnection, operation: str, der: bytes) -> None:
    """One certificate."""
    headers = {"Content-Type": "application/pkcs10"}
    connection.request("POST", f"/.well-known/est/{operation}", base64.encodebytes(der), headers)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, (answer.status, body)


def run(*arguments: object) -> str:
    command = [str(EDGETRUST), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@dataclass(frozen=True)
class Ours:
    """Our certificate authority and who enrols with it."""

    server: Server
    bootstrap: Path
    identity: Path
    name: str

    @classmethod
    def start(cls, directory: Path) -> Ours:
        run("ca", "init", "--dir", directory)
        config = directory / "ca.toml"
        (key, der), *_ = make_requests(["batch", "dev-0"])
        clients = []
        for name, profile in (("batch", "bootstrap"), ("dev-0", "device")):
            (key, der), *_ = make_requests([name])
            (directory / f"{name}.csr").write_bytes(der)
            chain = run("ca", "issue", directory / f"{name}.csr", "--profile", profile, "--config", config)
            clients.append(directory / f"{name}.pem")
            clients[-1].write_bytes(key + chain.encode())
        command = [EDGETRUST, "ca", "serve", "-c", config, "--https-port", "0", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        port = int(json.loads(process.stdout.readline())["est"]["url"].split(":")[2].split("/")[0])
        return cls(Server(process, port, directory / "root.cert.pem"), *clients, "dev-0")


Work = tuple[str, bytes]  # an operation and a request


def kept(server: Server, context: ssl.SSLContext, work: Sequence[Work]) -> None:
    """One connection, one request at a time."""
    connection = server.connect(context)
    for index, (operation, der) in enumerate(work):
        if index and not index % 400:  # what one address may ask at once is limited
            connection.close()
            connection = server.connect(context)
        ask(connection, operation, der)
    connection.close()


def together(server: Server, context: ssl.SSLContext, work: Sequence[Work]) -> None:
    """Several connections, each with one request at a time."""
    threads = [threading.Thread(target=kept, args=(server, context, work[at::CLIENTS])) for at in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fresh(server: Server, context: ssl.SSLContext, work: Sequence[Work]) -> None:
    """A connection for each request."""
    for operation, der in work:
        connection = server.connect(context)
        ask(connection, operation, der)
        connection.close()


Load = Callable[[Server, ssl.SSLContext, Sequence[Work]], None]


def measure(server: Server, context: ssl.SSLContext, load: Load, work: Sequence[Work]) -> float:
    """Microseconds of CPU of the server per certificate."""
    begin = server.cpu()
    load(server, context, work)
    return (server.cpu() - begin) / len(work) * 1e6


def _print(name: str, ours: list[float], reference: list[float], limit: float | None) -> None:
    mine, theirs = median(ours), median(reference)
    reached = "" if limit is None else f"{'yes' if mine <= limit * theirs else 'NO'}, at most {limit:g}"
    print(
        f"{name:<44}{mine:7.0f} us {theirs:6.0f} us {mine / theirs:6.1f}   {min(ours):.0f}/{mine:.0f}/{max(ours):.0f}"
        f" of {len(ours)}; {1e6 / mine:.0f} per CPU second  {reached}".rstrip(),
        flush=True,
    )


def _lines(ours: Ours) -> list[tuple[str, Load, Path, str, str, float | None]]:
    enrol = (ours.bootstrap, "simpleenroll", "batch-{}")
    renew = (ours.identity, "simplereenroll", ours.name)
    return [
        ("enrolment, kept connection", kept, *enrol, RATIO_AT_MOST),
        (f"enrolment, {CLIENTS} kept connections at once", together, *enrol, RATIO_AT_MOST),
        ("renewal, kept connection", kept, *renew, RATIO_AT_MOST),
        (f"renewal, {CLIENTS} kept connections at once", together, *renew, RATIO_AT_MOST),
        ("enrolment, new connection", fresh, *enrol, None),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400, help="certificates of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="TEXT", help="the lines whose name holds TEXT")
    options = parser.parse_args(arguments)
    numbers = count()
    with tempfile.TemporaryDirectory(prefix="edgetrust-bench-") as name, ExitStack() as running:
        ours = Ours.start(Path(name) / "ca")
        running.callback(ours.server.stop)
        print(f"{'name':<44}{'ours':>10} {'bare':>9} {'ratio':>6}   min/median/max")
        for line, load, pem, operation, subject, limit in _lines(ours):
            if options.only not in line:
                continue
            context, mine, reference = ours.server.client(pem), list[float](), list[float]()
            for _ in range(options.rounds):
                subjects = [subject.format(next(numbers)) for _ in range(options.requests)]
                ders = [der for _, der in make_requests(subjects)]
                reference.append(bare(ders))
                mine.append(measure(ours.server, context, load, [(operation, der) for der in ders]))
            _print(line, mine, reference, limit)
        _references(Path(name), options.requests, options.only, running)
    return 0


def _references(directory: Path, requests: int, only: str, running: ExitStack) -> None:
    ders = [der for _, der in make_requests([f"ref-{number}" for number in range(requests)])]
    if only in "openssl ca":
        version = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"\d+\.\d+\.\d+", version)
        cost = openssl_ca(directory / "openssl-ca", ders)
        print(f"{f'openssl ca {found[0] if found else str()}, one batch':<44}{cost:7.0f} us of CPU per certificate")
    if only not in "an EST server in Go":
        return
    started = go_server(directory / "goca")
    if started is None:
        print("an EST server in Go: not measured, `go` is not installed")
        return
    process, port, root, client = started
    server = Server(process, port, root)
    running.callback(server.stop)
    context, work = server.client(client), [("simpleenroll", der) for der in ders]
    for name, load in (("kept connection", kept), (f"{CLIENTS} at once", together), ("new connection", fresh)):
        cost = measure(server, context, load, work)
        print(f"{f'an EST server in Go, {name}':<44}{cost:7.0f} us of CPU per certificate", flush=True)


if __name__ == "__main__":
    sys.exit(main())
