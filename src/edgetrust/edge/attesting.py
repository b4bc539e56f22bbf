"""How a gateway is provisioned by a provisioning service: the part of `[provisioning]` with `source = "dps"`.

Rules. The service is named, always: there is no default. Below another gateway it is reached through that one, and
verified by roots of its own, or else the machine's: those of the gateways above it could speak in its name. With what
the gateway attests is read where credentials are (`settings`). Source: edge specification 1.2, 4.5; that gateways below
others are provisioned is ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from edgetrust.device.tpm import TpmPlace
from edgetrust.edge.configfile import AttestationTable, ConfigFile, ProvisioningTable, TpmTable
from edgetrust.edge.reading import Reading
from edgetrust.pki.keys import SecretText

MOST_KEY_INDEX = 0x7F_FFFF
_REGISTRATION = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Reprovision(StrEnum):
    """When the service is asked again."""

    DYNAMIC = "Dynamic"
    ALWAYS = "AlwaysOnStartup"
    ON_ERROR = "OnErrorOnly"


@dataclass(frozen=True, slots=True)
class Dps:
    """A provisioning service and how to register there.

    `endpoint` is https://host[:port]. `registration` None: the common name of the identity certificate. `payload` is
    a JSON file that is sent along. `ca` verifies it; None: the machine's trust store.
    """

    endpoint: str
    id_scope: str
    registration: str | None
    payload: Path | None
    reprovision: Reprovision
    ca: Path | None = None


class AttestingReader(Reading):
    """Reads one file's provisioning service. Raises ConfigError."""

    def dps(self, table: ProvisioningTable, file: ConfigFile) -> tuple[Dps, AttestationTable]:
        """The service, and the table that says with what to attest."""
        attestation = table.attestation
        if table.global_endpoint is None or table.id_scope is None or attestation is None:
            raise self.wrong(
                "provisioning by DPS needs global_endpoint, id_scope and [provisioning.attestation]",
                reason="config-missing-key",
            )
        registration = attestation.registration_id
        if registration is not None and not _REGISTRATION.fullmatch(registration):
            raise self.wrong(
                f"provisioning.attestation.registration_id: {registration[:140]!r} is not a registration id",
                fix="1 to 128 letters, digits and . _ : -",
            )
        mode = file.auto_reprovisioning_mode or Reprovision.DYNAMIC
        if mode not in tuple(Reprovision):
            raise self.wrong(f"auto_reprovisioning_mode is {mode!r}", fix=f"one of {', '.join(Reprovision)}")
        endpoint = self._endpoint(table.global_endpoint)
        payload, ca = self._payload(table), self._ca(file)
        return Dps(endpoint, table.id_scope, registration, payload, Reprovision(mode), ca), attestation

    def tpm(self, table: TpmTable | None) -> TpmPlace:
        """The TPM that attests."""
        wanted = table or TpmTable()
        if not 0 <= wanted.auth_key_index <= MOST_KEY_INDEX:
            raise self.wrong(f"tpm.auth_key_index is {wanted.auth_key_index}", fix=f"0 to {MOST_KEY_INDEX}")
        protected = wanted.hierarchy_authorization
        owner, endorsement = SecretText(protected.owner or ""), SecretText(protected.endorsement or "")
        return TpmPlace(wanted.tcti, wanted.auth_key_index, owner, endorsement)

    def _endpoint(self, url: str) -> str:
        parts = urlsplit(url if "//" in url else f"https://{url}")
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query:
            raise self.wrong(
                f"provisioning.global_endpoint: {url[:200]!r} is not https://NAME",
                fix='like "https://dps.example.com"',
            )
        return f"https://{parts.netloc}"

    def _ca(self, file: ConfigFile) -> Path | None:
        own = file.edgetrust
        if own.provisioning.ca is not None:
            return self.path("edgetrust.provisioning.ca", own.provisioning.ca)
        if own.upstream.ca is None or file.parent_hostname is not None:
            return None
        return self.path("edgetrust.upstream.ca", own.upstream.ca)

    def _payload(self, table: ProvisioningTable) -> Path | None:
        if table.payload is None:
            return None
        return self.path("provisioning.payload.uri", table.payload.uri)
