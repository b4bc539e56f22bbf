"""Which device a gateway is, and how it authenticates as it: `[provisioning]`.

Rules. One way and no other: a key, a TPM or a certificate; none without a hub. The certificate is in a file, or issued
as `[provisioning]` orders it (`issuing`). With a provisioning service (`attesting`), hub and device are what it has
assigned, and the same credential attests. Source: edge specification 1.2.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

from edgetrust.device.tpm import TpmPlace
from edgetrust.edge.attesting import AttestingReader, Dps
from edgetrust.edge.configfile import AttestationTable, AuthenticationTable, ConfigFile, KeyLocation, ProvisioningTable
from edgetrust.edge.files import DEVICE_ID, read_file
from edgetrust.edge.issuing import IssuingReader, Order
from edgetrust.edge.reading import Reading
from edgetrust.edge.tokens import KeyPlace
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.pkcs11 import SCHEME
from edgetrust.pki.renewal import AutoRenew
from edgetrust.protocol.iothub import valid_identifier


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """The device authenticates to the hub with SAS tokens made with this key; it is empty where another process has
    it.
    """

    key: SecretBytes


@dataclass(frozen=True, slots=True)
class DeviceTpm:
    """The device authenticates to the hub with SAS tokens that its TPM signs."""

    place: TpmPlace


@dataclass(frozen=True, slots=True)
class DeviceCertificate:
    """The device authenticates to the hub with its identity certificate."""

    certificate: Path
    key: KeyPlace


@dataclass(frozen=True, slots=True)
class IssuedIdentity:
    """The device's identity certificate is issued as `order` says. `auto_renew` None: it is used as it is."""

    order: Order
    auto_renew: AutoRenew | None


@dataclass(frozen=True, slots=True)
class KeptByIdentityService:
    """The identity service, another process, acts as the device. `auto_renew`: how it renews the certificate."""

    auto_renew: AutoRenew | None = None


@dataclass(frozen=True, slots=True)
class NoDevice:
    """There is no hub, and this machine is no device: it has keys, certificates and local identities."""


Credential = NoDevice | DeviceKey | DeviceTpm | DeviceCertificate | IssuedIdentity | KeptByIdentityService


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a provisioning service said: the hub (in lower case) and the device that this gateway is there."""

    hub: str
    device: str


class CredentialReader(Reading):
    """Reads `[provisioning]`; with `keys_elsewhere` no file of a key is opened. Raises ConfigError."""

    def __init__(self, source: Path, module: Path | None, issuing: IssuingReader, *, keys_elsewhere: bool) -> None:
        super().__init__(source, module)
        self._issuing = issuing
        self._keys_elsewhere = keys_elsewhere

    def provisioning(self, file: ConfigFile, assignment: Assignment | None) -> tuple[str, str, Credential, Dps | None]:
        """Hub, device, credential, and the provisioning service if there is one."""
        table = file.provisioning
        if table is None:
            raise self.wrong(
                "[provisioning] is missing",
                reason="config-missing-key",
                fix='add [provisioning] with source = "manual" and a connection_string',
            )
        match table.source:
            case "manual" if table.connection_string is not None:
                return (*self._connection_string(table.connection_string), None)
            case "manual":
                return (*self._manual(table), None)
            case "dps":
                dps, attestation = AttestingReader(self.source).dps(table, file)
                known = assignment or Assignment("", "")
                return known.hub, known.device, self._attestation(attestation, file), dps
            case "none":
                return "", "", NoDevice(), None
            case other:
                raise self.wrong(f"provisioning.source is {other!r}", fix='one of "manual", "dps", "none"')

    def _attestation(self, table: AttestationTable, file: ConfigFile) -> Credential:
        name = "provisioning.attestation"
        match table.method:
            case "symmetric_key":
                if table.registration_id is None:
                    raise self.wrong(f"{name} by key needs registration_id", reason="config-missing-key")
                return DeviceKey(self._key_location(f"{name}.symmetric_key", table.symmetric_key))
            case "x509":
                return self._x509(name, table, table.registration_id)
            case "tpm":
                if table.registration_id is None:
                    raise self.wrong(f"{name} by TPM needs registration_id", reason="config-missing-key")
                return DeviceTpm(AttestingReader(self.source).tpm(file.tpm))
            case other:
                raise self.wrong(f"{name}.method is {other!r}", fix='one of "symmetric_key", "x509", "tpm"')

    def _connection_string(self, text: str) -> tuple[str, str, DeviceKey]:
        pairs = dict(part.partition("=")[::2] for part in text.split(";") if part)
        for name in ("HostName", "DeviceId", "SharedAccessKey"):
            if not pairs.get(name):
                raise self.wrong(f"provisioning.connection_string has no {name}")
        key = self._key("provisioning.connection_string: SharedAccessKey", pairs["SharedAccessKey"])
        return (
            self.hub_name("provisioning.connection_string", pairs["HostName"]),
            self._device("provisioning.connection_string", pairs["DeviceId"]),
            DeviceKey(key),
        )

    def _manual(self, table: ProvisioningTable) -> tuple[str, str, Credential]:
        if table.iothub_hostname is None or table.device_id is None or table.authentication is None:
            raise self.wrong(
                "manual provisioning needs a connection_string, or iothub_hostname, device_id and "
                "[provisioning.authentication]",
                reason="config-missing-key",
            )
        hub = self.hub_name("provisioning.iothub_hostname", table.iothub_hostname)
        device = self._device("provisioning.device_id", table.device_id)
        return hub, device, self._authentication(table.authentication, device)

    def _authentication(self, table: AuthenticationTable, device: str) -> Credential:
        match table.method:
            case "sas":
                return DeviceKey(self._key_location("provisioning.authentication.device_id_pk", table.device_id_pk))
            case "x509":
                return self._x509("provisioning.authentication", table, device)
            case other:
                raise self.wrong(f"provisioning.authentication.method is {other!r}", fix='one of "sas", "x509"')

    def _x509(
        self, name: str, table: AuthenticationTable | AttestationTable, common_name: str | None
    ) -> DeviceCertificate | IssuedIdentity:
        """`common_name` is the only one that the certificate can have; None: the one that is asked for."""
        certificate = table.identity_cert
        if certificate is None or (table.identity_pk is None and isinstance(certificate, str)):
            raise self.wrong(f"{name} needs identity_cert and identity_pk", reason="config-missing-key")
        if isinstance(certificate, str):
            return DeviceCertificate(
                self.path(f"{name}.identity_cert", certificate),
                self.key_place(f"{name}.identity_pk", table.identity_pk or ""),
            )
        name = f"{name}.identity_cert"
        wanted = common_name or certificate.common_name or (certificate.subject or {}).get("CN")
        if wanted is None:
            raise self.wrong(
                f"{name} is to be issued and nothing says its common name",
                reason="config-missing-key",
                fix="add registration_id, which is the common name too",
            )
        order = self._issuing.order(name, DEVICE_ID, certificate, common_name=wanted)
        renew = certificate.auto_renew
        return IssuedIdentity(order, None if renew is None else self.auto_renew(f"{name}.auto_renew", renew))

    def _key_location(self, name: str, location: KeyLocation | None) -> SecretBytes:
        if location is None or (location.value is None) == (location.uri is None):
            raise self.wrong(f"{name} needs either value or uri", reason="config-missing-key")
        if location.value is not None:
            return self._key(name, location.value)
        if (location.uri or "").startswith(SCHEME):
            raise self.not_offered(
                f"{name}: a symmetric key in a token",
                'give a file:// URL, or a key pair of the token: method = "x509" with identity_pk = "pkcs11:..."',
            )
        place = self.path(name, location.uri or "")
        if self._keys_elsewhere:
            return SecretBytes(b"")
        content = read_file(place)
        if not content:
            raise self.wrong(f"{name}: the file is empty")
        return SecretBytes(content)  # the real product reads raw bytes there, not base64

    def _key(self, name: str, text: str) -> SecretBytes:
        try:
            key = base64.b64decode(text.strip() + "=" * (-len(text.strip()) % 4), validate=True)
        except (binascii.Error, ValueError) as problem:
            raise self.wrong(f"{name} is not base64") from problem
        if not key:
            raise self.wrong(f"{name} is empty")
        return SecretBytes(key)

    def _device(self, name: str, value: str) -> str:
        if not valid_identifier(value):
            raise self.wrong(f"{name}: {value[:140]!r} is not a device id")
        return value
