"""Local identities: certificates of programs on this machine that no hub knows.

Rules (edge specification 4.9). An identity is declared by a principal with `idtype = ["local"]`, or made by a trusted
service, and then remembered. Each answer holds a new RSA key, which is kept nowhere here, and a certificate for
`NAME.HOSTNAME.DOMAIN` that is issued as `[cert_issuance.certs.NAME]` says. It must not know who asks.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgetrust.edge.files import file_stem, make_private_directory, read_file
from edgetrust.edge.issuing import Order
from edgetrust.edge.moduleids import ModuleUnknownError
from edgetrust.edge.pairs import Certificates
from edgetrust.edge.settings import Settings
from edgetrust.errors import ConfigError
from edgetrust.pki.chain import Chain, key_matches
from edgetrust.pki.csr import request_for
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import COMMON_NAME_CHARACTERS
from edgetrust.pki.softkeys import SoftKey, write_private

_KEY = KeyAlgorithm.RSA2048


class Attributes(StrEnum):
    """What a certificate is for."""

    CLIENT = "client"
    SERVER = "server"


class Issues(Protocol):
    """Who issues by configuration."""

    async def issue(self, order: Order, csr: bytes, *, key_id: str | None = None) -> Chain: ...


class LocalIdentities:
    """The local identities of one machine; those that were made are below `directory`."""

    def __init__(self, settings: Settings, issuer: Issues, store: Certificates, directory: Path) -> None:
        self._settings = settings
        self._issuer = issuer
        self._store = store
        self._directory = directory

    def names(self) -> list[str]:
        """All identities, in order."""
        entries = self._settings.serving.principals.entries
        declared = {entry.name for entry in entries if entry.name and "local" in (entry.idtype or ())}
        return sorted(declared | {str(one["moduleId"]) for one in self._made()})

    async def create(self, name: str, attributes: Attributes) -> dict[str, Any]:
        """Make an identity, or change what it is for. Raises ConfigError, Error."""
        self._order(name)
        await asyncio.to_thread(self._remember, name, attributes)
        return await self.get(name)

    async def get(self, name: str) -> dict[str, Any]:
        """An identity with a new key and certificate. Raises ModuleUnknownError, ConfigError, Error."""
        if name not in await asyncio.to_thread(self.names):
            raise ModuleUnknownError(name)
        attributes = next((Attributes(one["attributes"]) for one in self._made() if one["moduleId"] == name), None)
        key = await asyncio.to_thread(SoftKey.generate, name, _KEY)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._common_name(name))])
        request = await asyncio.to_thread(request_for, key, subject, _extensions(attributes or Attributes.CLIENT))
        chain = await self._issuer.issue(self._order(name), request, key_id=None)
        key_matches(chain, key)
        await asyncio.to_thread(self._store.save, name, chain)
        return {
            "privateKey": key.private_pem().reveal().decode(),
            "certificate": chain.pem(),
            "expiration": chain.end_entity.not_valid_after_utc.isoformat(),
        }

    async def delete(self, name: str) -> None:
        """Forget an identity that was made. Raises ModuleUnknownError."""
        path = self._directory / file_stem(name)
        if not path.exists():
            raise ModuleUnknownError(name)
        await asyncio.to_thread(path.unlink)
        await asyncio.to_thread(self._store.delete, name)

    def _order(self, name: str) -> Order:
        order = self._settings.issuing.orders.get(name)
        if order is None or self._settings.serving.local_domain is None:
            raise ConfigError(
                f"nothing says how a certificate for the local identity {name!r} is issued"
                if order is None
                else "there is no domain for local identities",
                reason="config-missing-key",
                fix=f'add [cert_issuance.certs.{name}] with method = "local_ca"' if order is None else "add [localid]",
            )
        return order

    def _common_name(self, name: str) -> str:
        full = f"{name}.{self._settings.hostname}.{self._settings.serving.local_domain}"
        if len(full) > COMMON_NAME_CHARACTERS:
            raise ConfigError(
                f"the common name {full!r} has more than {COMMON_NAME_CHARACTERS} characters",
                reason="config-wrong-value",
                fix="choose a shorter name, hostname or domain",
            )
        return full

    def _remember(self, name: str, attributes: Attributes) -> None:
        make_private_directory(self._directory)
        content = json.dumps({"moduleId": name, "attributes": attributes}).encode()
        write_private(self._directory / file_stem(name), content)

    def _made(self) -> Iterable[dict[str, Any]]:
        for path in sorted(self._directory.glob("[!.]*")):
            try:
                yield dict(json.loads(read_file(path)))
            except (ConfigError, ValueError):
                continue


def _extensions(attributes: Attributes) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if attributes is Attributes.SERVER:
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    return (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage, True),
        (x509.ExtendedKeyUsage(purposes), True),
    )
