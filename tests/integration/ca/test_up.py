"""The certificate authority that `edgetrust up` brings along: on the hub's listener, for the hub's devices."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from cryptography import x509

from edgetrust.cli import up_ca
from edgetrust.clock import ManualClock
from edgetrust.hub.service import Hub
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.softkeys import SoftKey
from edgetrust.protocol.est import PREFIX
from edgetrust.store.records import DeviceDraft
from edgetrust.transport.http import https_context
from support.ca import csr, edge_ca_extensions
from support.ca_server import HEADERS, body, certificates_in
from support.hub import new_pki, new_settings
from support.pki import key


async def test_devices_and_gateways_enrol_at_the_hub(tmp_path: Path) -> None:
    pki = new_pki(tmp_path / "pki")
    settings = new_settings(tmp_path / "data", pki)

    async def invite(hub: Hub) -> list[object]:
        return [await up_ca.invited(hub)]

    hub = await Hub.start(settings, ManualClock(datetime.now(UTC)), invite)  # type: ignore[arg-type]
    try:
        root = TrustBundle.from_pem(pki.trust_bundle.read_bytes(), datetime.now(UTC))
        secret = up_ca.password_file(settings.data).read_text().strip()
        password = {"Authorization": aiohttp.encode_basic_auth(up_ca.USERNAME, secret)}

        async def ask(der: bytes, headers: dict[str, str], **shown: object) -> tuple[int, bytes]:
            connector = aiohttp.TCPConnector(ssl=https_context(root, **shown))  # type: ignore[arg-type]
            url = f"https://localhost:{hub.https_port}{PREFIX}/simpleenroll"
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.post(url, data=io.BytesIO(body(der)), headers={**HEADERS, **headers}) as answer,
            ):
                return answer.status, await answer.read()

        status, text = await ask(csr("gw1"), password)
        assert status == 200, text
        (identity,) = certificates_in(base64.b64decode(text))
        shown = {"chain": Chain((identity,)), "key": SoftKey("k", key("csr gw1"))}
        wanted = csr("aziot-edge CA gw1", extensions=edge_ca_extensions())
        status, text = await ask(wanted, {}, **shown)
        assert (status, text.partition(b":")[0]) == (403, b"enroll-not-a-gateway")
        await hub.parts.identities.create_device(DeviceDraft("gw1", edge=True))
        status, text = await ask(wanted, {}, **shown)
        assert status == 200, text
        (edge_ca,) = certificates_in(base64.b64decode(text))
        assert edge_ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        await hub.parts.identities.set_enabled("gw1", False)
        status, text = await ask(csr("gw1"), {}, **shown)
        assert (status, text.partition(b":")[0]) == (403, b"enroll-disabled")
        accepted = {record.name for record in await hub.parts.certificates.certificates() if record.verified}
        assert accepted == {"est-devices", "est-edge"}
    finally:
        await hub.stop()
    again = await Hub.start(settings, ManualClock(datetime.now(UTC)), invite)  # type: ignore[arg-type]
    await again.stop()
    assert up_ca.password_file(settings.data).read_text().strip() == secret, "a restart changes nothing"
