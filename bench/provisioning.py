"""Registers a fleet with the provisioning service of `edgetrust up`, over a new TLS connection each, and kills the
service on the way; then compares the service's records with the hub's.

    python bench/provisioning.py [--devices N] [--kills N] [--already N] [--at-once N] [--json]

Every device has a certificate below the CA of one group, and registers as the edge runtime does: PUT, then GET until it
is assigned, trying again when the service is away. In the end every device must be assigned exactly once: one
registration, one device at the hub, with the thumbprint of its certificate. Exit code 1 if not. `--already` are devices
that are registered before the measurement, to see how the cost grows with them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edgetrust.protocol.sas import decode_key, resource_text, sign

EDGETRUST = [sys.executable, "-m", "edgetrust.cli"]
GROUP = "fleet"
VERSION = "api-version=2021-10-01"
GIVE_UP_SECONDS = 900


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


class Certificates:
    """A CA, and devices below it that share a key: making keys would take longer than the measurement."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key, self._device_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self._pem = self._device_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.ca = self._made(name("Fleet CA"), self._key, ca=True)

    def device(self, device: str) -> tuple[Path, str]:
        """A file with certificate and key, and the certificate's SHA-256."""
        made = self._made(name(device), self._device_key, ca=False)
        file = self._folder / f"{device}.pem"
        file.write_bytes(made.public_bytes(Encoding.PEM) + self._pem)
        return file, hashlib.sha256(made.public_bytes(Encoding.DER)).hexdigest().upper()

    def _made(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name("Fleet CA"), subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        return builder.sign(self._key, hashes.SHA256())


@dataclass
class Service:
    """`edgetrust up` as a process; `kill` and `start` again keep its directory and ports."""

    folder: Path
    ready: dict[str, Any] = field(default_factory=dict)
    cpu: float = 0.0  # of lives that are over

    def start(self) -> None:
        ports = self.ready.get("hub", {"mqtt_port": 0, "https_port": 0})
        with (self.folder / "service.log").open("a") as log:
            self._process = subprocess.Popen(
                [
                    *(*EDGETRUST, "up", "--dir", str(self.folder / "hub"), "--json"),
                    *("--mqtt-port", str(ports["mqtt_port"]), "--https-port", str(ports["https_port"])),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self.folder / "service.log").read_text()[-2000:]
        self.ready = json.loads(line)
        self._began = self._times()

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.cpu += self._times() - self._began
        self._process.send_signal(number)
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def spent(self) -> float:
        """CPU seconds since the first start was ready."""
        return self.cpu + self._times() - self._began

    def _times(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Fleet:
    """Devices that register, and the operator who looks at both records."""

    def __init__(self, service: Service, certificates: Certificates) -> None:
        self.service = service
        self.certificates = certificates
        self.prints: dict[str, str] = {}
        self.tries = 0
        self.done = 0

    @property
    def base(self) -> str:
        return f"https://localhost:{self.service.ready['hub']['https_port']}"

    async def register(self, devices: list[str], at_once: int) -> None:
        turn = asyncio.Semaphore(at_once)

        async def one(device: str) -> None:
            async with turn:
                await self._register(device)

        await asyncio.gather(*(one(device) for device in devices))

    async def _register(self, device: str) -> None:
        file, self.prints[device] = self.certificates.device(device)
        context = ssl.create_default_context(cafile=self.service.ready["trust_bundle"])
        context.load_cert_chain(file)
        file.unlink()
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < deadline:
            self.tries += 1
            try:
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                    if await self._once(session, device):
                        self.done += 1
                        return
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.2)
        raise TimeoutError(device)

    async def _once(self, session: aiohttp.ClientSession, device: str) -> bool:
        url = f"{self.base}/{self.service.ready['dps']['id_scope']}/registrations/{device}"
        limit = aiohttp.ClientTimeout(total=20)
        async with session.put(f"{url}/register?{VERSION}", json={"registrationId": device}, timeout=limit) as answer:
            if answer.status != 202:
                await asyncio.sleep(float(answer.headers.get("Retry-After", "0.2")))
                return False
            operation = (await answer.json())["operationId"]
        for _ in range(100):
            await asyncio.sleep(0.05)
            async with session.get(f"{url}/operations/{operation}?{VERSION}", timeout=limit) as answer:
                if answer.status != 202:
                    said = await answer.json()
                    return bool(said.get("status") == "assigned")
        return False

    async def disagreements(self) -> list[str]:
        """What is not as it should be, in words."""
        registered = {one["registrationId"]: one for one in await self._all("dps", f"/registrations/{GROUP}/query")}
        stored = {one["deviceId"]: one for one in await self._all("hub", "/devices/query")}
        found = [f"{name}: no registration" for name in self.prints if name not in registered]
        found += [f"{name}: at the hub, and nobody registered it" for name in stored if name not in registered]
        for device, shown in self.prints.items():
            state, at_hub = registered.get(device, {}), stored.get(device, {})
            if (state.get("status"), state.get("deviceId")) != ("assigned", device):
                found.append(f"{device}: {state.get('status')}")
            info = (state.get("x509") or {}).get("certificateInfo") or {}
            prints = set((at_hub.get("x509Thumbprint") or {}).values())
            if info.get("sha256Thumbprint") != shown or prints != {shown}:
                found.append(f"{device}: the thumbprints differ")
        return found

    async def ask(self, actor: str, method: str, path: str, **options: Any) -> tuple[Any, str | None]:
        """One request with the owner's policy: JSON, and what continues it."""
        ready = self.service.ready
        text = (ready["dps"] if actor == "dps" else ready)["service_connection_string"]
        said = dict(part.split("=", 1) for part in text.split(";"))
        key, expires_at = decode_key(said["SharedAccessKey"]), int(time.time()) + 300
        headers = {
            "Authorization": sign(key, resource_text("localhost"), expires_at, said["SharedAccessKeyName"]),
            **options.pop("headers", {}),
        }
        context = ssl.create_default_context(cafile=ready["trust_bundle"])
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.request(method, f"{self.base}{path}?{VERSION}", headers=headers, **options) as answer,
        ):
            body = await answer.text()
            assert answer.status < 300, (path, answer.status, body)
            return json.loads(body), answer.headers.get("x-ms-continuation")

    async def _all(self, actor: str, path: str) -> list[dict[str, Any]]:
        text = "SELECT *" if actor == "dps" else "SELECT deviceId, x509Thumbprint FROM devices"
        found: list[dict[str, Any]] = []
        more: str | None = ""
        while more is not None:
            headers = {"x-ms-continuation": more} if more else {}
            page, more = await self.ask(actor, "POST", path, json={"query": text}, headers=headers)
            found += page
        return found

    async def enroll(self) -> None:
        pem = base64.b64encode(self.certificates.ca.public_bytes(Encoding.PEM)).decode()
        body = {"properties": {"certificate": pem, "isVerified": True}}
        await self.ask("dps", "PUT", "/provisioningServices/dps/certificates/fleet", json=body)
        attestation = {"type": "x509", "x509": {"caReferences": {"primary": "fleet"}}}
        group = {"enrollmentGroupId": GROUP, "attestation": attestation}
        await self.ask("dps", "PUT", f"/enrollmentGroups/{quote(GROUP)}", json=group)


async def killing(fleet: Fleet, devices: int, kills: int) -> None:
    """Kill the service when a further part of the devices is assigned, and start it again."""
    for number in range(1, kills + 1):
        while fleet.done < devices * number // (kills + 1):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(fleet.service.kill)
        await asyncio.to_thread(fleet.service.start)


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    service = Service(folder)
    service.start()
    try:
        fleet = Fleet(service, Certificates(folder))
        await fleet.enroll()
        await fleet.register([f"already-{number}" for number in range(arguments.already)], arguments.at_once)
        fleet.tries, fleet.done, before, began = 0, 0, service.spent(), time.monotonic()
        devices = [f"device-{number}" for number in range(arguments.devices)]
        killer = asyncio.create_task(killing(fleet, len(devices), arguments.kills))
        await fleet.register(devices, arguments.at_once)
        await killer
        seconds, cpu = time.monotonic() - began, service.spent() - before
        wrong = await fleet.disagreements()
    finally:
        service.kill(signal.SIGTERM)
    return {
        "devices": arguments.devices,
        "already": arguments.already,
        "kills": arguments.kills,
        "tries": fleet.tries,
        "seconds": round(seconds, 2),
        "registrations_per_cpu_second": round(arguments.devices / cpu, 1),
        "milliseconds_of_cpu_each": round(1000 * cpu / arguments.devices, 2),
        "disagreements": wrong,
    }


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--already", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="edgetrust-bench-") as folder:
        found = asyncio.run(measure(arguments, Path(folder)))
    if arguments.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:<30} {value if key != 'disagreements' else len(value)}")
        for line in found["disagreements"][:20]:
            print(f"  {line}")
    return 1 if found["disagreements"] else 0


if __name__ == "__main__":
    sys.exit(main())
