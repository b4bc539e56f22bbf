"""The certificates of a gateway: its device identity, its Edge CA, and the server certificate that devices see.

Rules. What comes from files is copied into the store at every start and whenever the files change, so that the store
always shows what is in use. The quickstart Edge CA signs itself, is used again after a restart, and renews itself
with a new key; renewal is written so that a crash at any point leaves a certificate and a key that belong together.
The server certificate is issued anew at every start with a key that is never stored, lives 30 days at most and no
longer than the Edge CA, and is issued again while serving. Without a usable Edge CA nothing is served. Source: edge
specification 3, 5.2 to 5.5, 6.1.

It knows nothing of connections; who serves with a certificate asks for it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID

from edgetrust.clock import Clock
from edgetrust.edge.credentials import (
    DeviceCertificate,
    DeviceKey,
    DeviceTpm,
    IssuedIdentity,
    KeptByIdentityService,
    NoDevice,
)
from edgetrust.edge.edgeca import EdgeCaFiles, IssuedCa, QuickstartCa
from edgetrust.edge.files import (
    DEVICE_ID,
    EDGE_CA,
    TRUST_BUNDLE_USER,
    Layout,
    Stamp,
    server_certificate_id,
    stamp_of,
)
from edgetrust.edge.keyd import SecretsElsewhere
from edgetrust.edge.pairs import Certificates, CertificateStore, Pairs, read_chain
from edgetrust.edge.settings import Settings
from edgetrust.edge.tokens import KeyPlace, load_place
from edgetrust.errors import ConfigError, Error, IntegrityError
from edgetrust.pki.chain import Chain, TrustBundle, key_matches
from edgetrust.pki.issue import Issuer, self_signed
from edgetrust.pki.keys import KeyAlgorithm, KeyHandle, KeyStore, TlsKey
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import EDGE_CA_SELF_SIGNED, GATEWAY_SERVER
from edgetrust.pki.renewal import AutoRenew, is_due
from edgetrust.pki.softkeys import SoftKey
from edgetrust.pki.verify import ChainFailure, ChainReason, Purpose, verify_chain
from edgetrust.telemetry import EVENT_CERTIFICATE_ISSUED, EVENT_EDGE_CA_CHAIN, EVENT_QUICKSTART_CA
from edgetrust.trust.authorize import EDGE_HUB

_SERVER_LIFE = AutoRenew()
_OF_THE_EDGE_CA = {"issuer-expired": "edge-ca-expired", "issuer-not-yet-valid": "edge-ca-not-yet-valid"}
_log = structlog.get_logger()


class EdgeCaError(Error):
    """There is no Edge CA to issue with. Nothing is served without one; exit code 1."""


_CA_PROFILE = "issue it anew with basicConstraints critical CA:TRUE and keyUsage critical digitalSignature, keyCertSign"


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """What a listener presents, and the identifier it is stored under: the end entity, then the whole Edge CA file."""

    certificate_id: str
    chain: Chain
    key: SoftKey


class GatewayCertificates:
    """Holds and renews the certificates of one gateway."""

    def __init__(
        self,
        layout: Layout,
        keys: KeyStore,
        settings: Settings,
        clock: Clock,
        store: Certificates | None = None,
    ) -> None:
        self.store = CertificateStore(layout.certificates) if store is None else store
        self.pairs = Pairs(keys, self.store)
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self.device_identity: Chain | None = None
        self._issuer: Issuer | None = None
        self._bundle: TrustBundle | None = None
        self._trust_stamp: Stamp | None = None

    # Start ----------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Bring device identity, Edge CA and trust bundle into use. Raises ConfigError or EdgeCaError."""
        self.take_device_identity()
        self._issuer = self._edge_ca()
        self._bundle = self._trust_bundle()

    @property
    def issuer(self) -> Issuer:
        """The Edge CA."""
        assert self._issuer is not None, "prepare() comes first"
        return self._issuer

    @property
    def trust_bundle(self) -> TrustBundle:
        """The whole Edge CA file and `trust_bundle_cert` (edge specification 5.7)."""
        assert self._bundle is not None, "prepare() comes first"
        return self._bundle

    # The device's identity ------------------------------------------------------------------------------------------

    def take_device_identity(self) -> None:
        """Copy the identity certificate and its key into the stores, unless the device uses a symmetric key.

        Its expiry is not looked at here: the hub refuses it, and everything else goes on (edge specification 4.8).
        """
        match self._settings.credential:
            case DeviceCertificate(certificate, key):
                self.device_identity = self._take(DEVICE_ID, certificate, key)
            case IssuedIdentity() | KeptByIdentityService():
                self.device_identity = self.store.load(DEVICE_ID)
            case DeviceKey() | DeviceTpm() | NoDevice():
                pass

    def refresh_device_identity(self) -> bool:
        """Take up replaced identity files. Whether there is another certificate now. Raises ConfigError."""
        current: Chain | None = None
        match self._settings.credential:
            case DeviceCertificate(certificate):
                current = read_chain(certificate)
            case IssuedIdentity() | KeptByIdentityService():
                current = self.store.load(DEVICE_ID)
            case DeviceKey() | DeviceTpm() | NoDevice():
                pass
        if current is None or current == self.device_identity:
            return False
        self.take_device_identity()
        return True

    def _take(self, identifier: str, certificate: Path, key_file: KeyPlace) -> Chain:
        chain, key = read_chain(certificate), self._key_of(identifier, key_file)
        try:
            key_matches(chain, key)
        except IntegrityError as problem:
            raise ConfigError(
                f"the key {key_file} does not belong to the certificate {certificate}",
                reason=problem.reason,
                fix=f"compare: openssl x509 -noout -pubkey -in {certificate}; openssl pkey -pubout -in {key_file}",
            ) from problem
        if isinstance(key, TlsKey):  # one in a token stays there, and is used there
            self._keys.import_pem(identifier, key.private_pem())
        self.store.save(identifier, chain)
        return chain

    def _key_of(self, identifier: str, key_file: KeyPlace) -> KeyHandle:
        """The key of a file that the configuration names; the key service reads it when that is another process."""
        return self._keys.load(identifier) if isinstance(self._keys, SecretsElsewhere) else load_place(key_file)

    # The Edge CA ----------------------------------------------------------------------------------------------------

    def _edge_ca(self) -> Issuer:
        match self._settings.edge_ca:
            case EdgeCaFiles() as files:
                return self.checked(self._from_files(files), str(files.certificate))
            case QuickstartCa() as quickstart:
                self.pairs.recover(EDGE_CA)
                issuer = self._quickstart(quickstart)
                self._check_names(issuer.certificate, "the quickstart Edge CA")
                return issuer
            case IssuedCa():
                return self._issued_ca()

    def _issued_ca(self) -> Issuer:
        """What upkeep has put in the store, whatever its state: an expired one issues nothing, and is being renewed."""
        stored = self.store.load(EDGE_CA)
        if stored is None:
            raise EdgeCaError(
                f"there is no Edge CA certificate yet: {self.store.path(EDGE_CA)} does not exist",
                reason="edge-ca-missing",
                fix="the log says why it could not be issued",
            )
        issuer = self._from_store(stored)
        self._check_names(issuer.certificate, str(self.store.path(EDGE_CA)))
        return issuer

    def _from_files(self, files: EdgeCaFiles) -> Issuer:
        chain = self._take(EDGE_CA, files.certificate, files.key)
        return Issuer(self._keys.load(EDGE_CA), chain)

    def checked(self, issuer: Issuer, where: str) -> Issuer:
        """The same Edge CA, if it can issue. `where` names it in errors. Raises EdgeCaError."""
        self._check_names(issuer.certificate, where)
        now = self._clock.now()
        self._check_dates(issuer.certificate, where, now)
        itself = TrustBundle((issuer.certificate,), as_of=now)
        alone = verify_chain(Chain((issuer.certificate,)), itself, Purpose.CA, now)
        if isinstance(alone, ChainFailure):
            reason = "edge-ca-not-a-ca" if alone.reason is ChainReason.NOT_A_CA else "edge-ca-unusable"
            raise EdgeCaError(f"{where}: the Edge CA cannot issue: {alone.detail}", reason=reason, fix=_CA_PROFILE)
        if issuer.chain.intermediates:
            above = TrustBundle(issuer.chain.intermediates, as_of=now)
            outcome = verify_chain(issuer.chain, above, Purpose.CA, now)
            if isinstance(outcome, ChainFailure):
                _log.warning(EVENT_EDGE_CA_CHAIN, file=where, certificate=outcome.certificate, detail=outcome.detail)
        return issuer

    def _check_dates(self, certificate: x509.Certificate, where: str, now: datetime) -> None:
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now >= end:
            raise EdgeCaError(
                f"{where}: the Edge CA expired at {end:%Y-%m-%d %H:%M:%SZ}",
                reason="edge-ca-expired",
                fix="issue a new Edge CA certificate and name it in [edge_ca] cert and pk",
            )
        if now < start:
            raise EdgeCaError(
                f"{where}: the Edge CA is valid from {start:%Y-%m-%d %H:%M:%SZ} only",
                reason="edge-ca-not-yet-valid",
                fix="set the clock of this machine, or wait",
            )

    def _check_names(self, certificate: x509.Certificate, where: str) -> None:
        name = _common_name(certificate)
        for taken, what in ((self._settings.hostname, "hostname"), (self._settings.device, "device id")):
            if name == taken:
                raise EdgeCaError(
                    f"{where}: the common name of the Edge CA is {name!r}, which is also the {what}",
                    reason="edge-ca-common-name",
                    fix="give the Edge CA another common name: to clients the chain would look like a loop",
                )

    def _quickstart(self, wanted: QuickstartCa) -> Issuer:
        stored = self.store.load(EDGE_CA)
        if stored is not None and not _is_self_signed(stored.end_entity):
            _log.info(EVENT_QUICKSTART_CA, detail="it takes the place of an Edge CA that came from files")
            stored = None
        if stored is None:
            return self._new_quickstart(wanted, wanted.common_name or f"aziot-edge CA {self._settings.device}")
        issuer = self._from_store(stored)
        if is_due(issuer.certificate, wanted.auto_renew, self._clock.now()):
            return self._renewed_quickstart(wanted, issuer)
        return issuer

    def _from_store(self, stored: Chain) -> Issuer:
        try:
            return Issuer(self._keys.load(EDGE_CA), stored)
        except IntegrityError as problem:
            raise EdgeCaError(
                f"the Edge CA certificate {self.store.path(EDGE_CA)} cannot be used: {problem.message}",
                reason="edge-ca-key-missing" if problem.reason == "key-missing" else problem.reason,
                fix=f"restore its key, or delete {self.store.path(EDGE_CA)} to have a new Edge CA made",
            ) from problem

    def _renewed_quickstart(self, wanted: QuickstartCa, issuer: Issuer) -> Issuer:
        name = _common_name(issuer.certificate)
        return self._new_quickstart(wanted, name or f"aziot-edge CA {self._settings.device}")

    def _new_quickstart(self, wanted: QuickstartCa, common_name: str) -> Issuer:
        """Sign a new Edge CA with a new key."""
        key = self.pairs.new_key(EDGE_CA, KeyAlgorithm.RSA2048)
        life = timedelta(days=wanted.days)
        profile = EDGE_CA_SELF_SIGNED.with_validity(life)
        chain = self_signed(key, profile, Names(common_name), self._clock.now(), validity=life)
        self.pairs.promote(EDGE_CA, chain)
        _issued(EDGE_CA, chain)
        return Issuer(self._keys.load(EDGE_CA), chain)

    # While serving --------------------------------------------------------------------------------------------------

    def refresh_edge_ca(self) -> bool:
        """Renew the quickstart Edge CA when it is due, or take up replaced files. Whether there is another Edge CA now.

        Raises Error when the replacement cannot be used; what was in use stays in use.
        """
        before = self.issuer.certificate
        match self._settings.edge_ca:
            case EdgeCaFiles() as files:
                if read_chain(files.certificate).end_entity == before:
                    return False
                chain, key = read_chain(files.certificate), self._key_of(EDGE_CA, files.key)
                self.checked(Issuer(key, chain), str(files.certificate))  # before anything in use is replaced
                self._issuer = self._from_files(files)
            case QuickstartCa() as quickstart:
                if not is_due(before, quickstart.auto_renew, self._clock.now()):
                    return False
                self._issuer = self._renewed_quickstart(quickstart, self.issuer)
            case IssuedCa():
                stored = self.store.load(EDGE_CA)
                if stored is None or stored.end_entity == before:
                    return False
                self._issuer = self._issued_ca()
        self._bundle = self._trust_bundle()
        return True

    def refresh_trust_bundle(self) -> bool:
        """Take up a replaced `trust_bundle_cert`. Whether there are other anchors now. Raises ConfigError."""
        if self._settings.trust_bundle is None or stamp_of(self._settings.trust_bundle) == self._trust_stamp:
            return False
        before, self._bundle = self.trust_bundle, self._trust_bundle()
        return before.version != self._bundle.version

    def known_as(self, settings: Settings) -> None:
        """Hostname and names are those of `settings` from now on. Raises EdgeCaError; then nothing has changed."""
        before, self._settings = self._settings, settings
        try:
            self._check_names(self.issuer.certificate, "the new hostname")
        except EdgeCaError:
            self._settings = before
            raise

    def server_is_due(self, current: ServerCertificate) -> bool:
        """Whether a new server certificate would help: it is due, and the Edge CA can give it a longer life."""
        leaf, now = current.chain.end_entity, self._clock.now()
        if current.chain.certificates[1] != self.issuer.certificate:
            return True
        capped = leaf.not_valid_after_utc >= self.issuer.certificate.not_valid_after_utc
        return not capped and is_due(leaf, _SERVER_LIFE, now)

    # Issuing --------------------------------------------------------------------------------------------------------

    def new_server_key(self) -> SoftKey:
        """A key for a server certificate; it is never stored. RSA takes its time: do it beside other work."""
        return SoftKey.generate(f"{EDGE_HUB} server", self._settings.server_key)

    def issue_server(self, generation: str, key: SoftKey) -> ServerCertificate:
        """A new server certificate of `$edgeHub` for `key`, stored with the whole Edge CA file.

        Common name and first SAN are the hostname (an iPAddress for an address); then come its other names, then
        `edgeHub`. Raises EdgeCaError.
        """
        settings = self._settings
        certificate_id = server_certificate_id(
            EDGE_HUB, generation, keep_dollar=settings.keep_dollar_in_certificate_ids
        )
        names = Names.for_hosts(settings.hostname, *settings.names, EDGE_HUB.removeprefix("$"))
        try:
            chain = self.issuer.issue(key.public_key(), GATEWAY_SERVER, names, self._clock.now())
        except IntegrityError as problem:
            reason = _OF_THE_EDGE_CA.get(problem.reason, problem.reason)
            raise EdgeCaError(
                f"no server certificate for {settings.hostname!r}: {problem.message}", reason=reason, fix=problem.fix
            ) from problem
        self.store.save(certificate_id, chain)
        _issued(certificate_id, chain)
        return ServerCertificate(certificate_id, chain, key)

    # What downstream certificates may chain to ----------------------------------------------------------------------

    def _trust_bundle(self) -> TrustBundle:
        anchors = self.issuer.chain.certificates
        if self._settings.trust_bundle is not None:
            self._trust_stamp = stamp_of(self._settings.trust_bundle)
            user = read_chain(self._settings.trust_bundle)
            self.store.save(TRUST_BUNDLE_USER, user)
            anchors = (*anchors, *user.certificates)
        return TrustBundle(anchors, as_of=self._clock.now())


def _issued(certificate_id: str, chain: Chain) -> None:
    leaf = chain.end_entity
    _log.info(
        EVENT_CERTIFICATE_ISSUED,
        certificate_id=certificate_id,
        subject=leaf.subject.rfc4514_string(),
        until=leaf.not_valid_after_utc.isoformat(),
        thumbprint=chain.thumbprint().hex(),
    )


def _is_self_signed(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject


def _common_name(certificate: x509.Certificate) -> str | None:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    value = names[0].value if names else None
    return value if isinstance(value, str) else None
