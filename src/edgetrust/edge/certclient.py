"""The certificate service of another process: certificates that are kept there, and certificates issued by it.

Rules. A certificate that is to be proven first is issued without being stored: what stands under a temporary
identifier has been proven (`pairs`). Who issues, and with what to authenticate there, is the certificate service's
business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgetrust.edge.files import certificate_file_name
from edgetrust.edge.issuer import EstIdentity
from edgetrust.edge.issuing import Order
from edgetrust.errors import ConfigError, RefusedError, UnavailableError
from edgetrust.limits import SERVICE_CALL_SECONDS, SERVICE_ISSUE_SECONDS
from edgetrust.pki.chain import Chain, ChainError
from edgetrust.pki.renewal import RenewalState
from edgetrust.transport.unixclient import UnixClient

CERTIFICATE_API = "2020-09-01"
_OK, _CREATED, _NO_CONTENT, _WRONG, _NOT_ALLOWED = 200, 201, 204, 400, 401


class CertificateClient:
    """The certificates that the service on a socket keeps. `directory` is where it keeps them, for people."""

    def __init__(self, socket: Path, directory: Path) -> None:
        self._service = UnixClient(socket, "the certificate service", CERTIFICATE_API)
        self._directory = directory

    def path(self, certificate_id: str) -> Path:
        return self._directory / certificate_file_name(certificate_id)

    def load(self, certificate_id: str) -> Chain | None:
        text = self.text(certificate_id)
        if text is None:
            return None
        try:
            return Chain.from_pem(text)
        except ChainError as problem:
            raise ConfigError(
                f"{self.path(certificate_id)}: {problem.message}", reason="config-not-a-certificate"
            ) from problem

    def save(self, certificate_id: str, chain: Chain) -> None:
        if self.text(certificate_id) != chain.pem():
            self.save_text(certificate_id, chain.pem())

    def text(self, certificate_id: str) -> str | None:
        status, answered = self._service.call("GET", _path(certificate_id))
        if status == _WRONG:
            return None
        return str(self._expect(status, answered)["pem"])

    def save_text(self, certificate_id: str, pem: str) -> None:
        self._expect(*self._service.call("PUT", _path(certificate_id), {"pem": pem}))

    def delete(self, certificate_id: str) -> None:
        self._expect(*self._service.call("DELETE", _path(certificate_id)))

    def issued(self, certificate_id: str, csr: bytes) -> Chain:
        """A certificate for `csr` (PEM) as the configuration orders it; it is not stored."""
        body = {"certId": certificate_id, "csr": csr.decode(), "keep": False}
        answered = self._called("POST", "/certificates", body, SERVICE_ISSUE_SECONDS)
        return Chain.from_pem(str(answered["pem"]))

    def _called(self, method: str, path: str, body: dict[str, Any], timeout: float = SERVICE_CALL_SECONDS) -> Any:
        return self._expect(*self._service.call(method, path, body, timeout=timeout))

    def _expect(self, status: int, answered: dict[str, Any]) -> dict[str, Any]:
        if status in (_OK, _CREATED, _NO_CONTENT):
            return answered
        message = f"the certificate service: {answered.get('message', f'HTTP {status}')}"
        if status in (_WRONG, _NOT_ALLOWED):
            raise RefusedError(message, reason="certificate-not-authorized")
        raise UnavailableError(message, reason="service-failed", fix="the log of the certificate service says why")


class IssuerClient:
    """Has certificates issued by the certificate service."""

    def __init__(self, certificates: CertificateClient, orders: Mapping[str, Order]) -> None:
        self._certificates = certificates
        self._orders = orders
        self._seen: list[EstIdentity] = []

    async def issue(self, order: Order, csr: bytes, *, key_id: str | None = None) -> Chain:
        """As `ConfiguredIssuer.issue`. Raises UnavailableError when it fails: the reason is in the other's log."""
        return await asyncio.to_thread(self._certificates.issued, key_id or order.certificate_id, csr)

    async def keep_identities(self) -> None:
        """See which there are; the certificate service renews them by itself. Raises UnavailableError, ConfigError."""
        self._seen = await asyncio.to_thread(self._look)

    def _look(self) -> list[EstIdentity]:
        wanted = dict.fromkeys(order.est.auth.identity_id for order in self._orders.values() if order.est is not None)
        held = [(identity_id, self._certificates.load(identity_id)) for identity_id in wanted]
        return [EstIdentity(name, chain, RenewalState()) for name, chain in held if chain is not None]

    def identities(self) -> list[EstIdentity]:
        """The EST identities that the certificate service used when it was last asked."""
        return self._seen


def _path(certificate_id: str) -> str:
    return f"/certificates/{quote(certificate_id, safe='')}"
