"""What `config.toml` orders to be issued, by whom and with what: `[cert_issuance]` and the tables with a `method`.

Rules. A certificate whose method is `est` needs an address (its own `url`, that of its identifier in
`[cert_issuance.est.urls]`, or the default) and something to authenticate with (its own, or `[cert_issuance.est.auth]`).
If an authentication names both a bootstrap certificate and an identity, the bootstrap counts. Plain HTTP is refused.
The EST identity of a certificate with credentials of its own is its own too. Source: edge specification 1.2 to 1.4,
3.4, 3.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

from edgetrust.edge.configfile import CertIssuanceTable, EdgeCaTable, EstAuthTable, EstTable, IssuedTable, LocalCaTable
from edgetrust.edge.files import EST_BOOTSTRAP_ID, EST_ID, LOCAL_CA
from edgetrust.edge.reaching import UpstreamAddress
from edgetrust.edge.reading import Reading
from edgetrust.edge.tokens import KeyPlace
from edgetrust.pki.keys import SecretText
from edgetrust.pki.names import COMMON_NAME_CHARACTERS
from edgetrust.pki.renewal import AutoRenew

_ATTRIBUTES: Mapping[str, ObjectIdentifier] = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
    "CN": NameOID.COMMON_NAME,
}


class Method(StrEnum):
    """Who issues."""

    EST = "est"
    LOCAL_CA = "local_ca"
    SELF_SIGNED = "self_signed"


@dataclass(frozen=True, slots=True)
class Files:
    """A certificate in a file of the user, and its key, in a file or a token."""

    certificate: Path
    key: KeyPlace


@dataclass(frozen=True, slots=True)
class EstAuth:
    """How to authenticate at an EST server. `identity_id` is what an identity made from the bootstrap is kept under."""

    user: str | None
    password: SecretText | None
    identity: Files | None
    bootstrap: Files | None
    identity_id: str

    @property
    def files(self) -> tuple[str, Files] | None:
        """The certificate and key that the user gave, and the identifier of that key in the key service."""
        if self.bootstrap is not None:
            return self.identity_id.replace(EST_ID, EST_BOOTSTRAP_ID, 1), self.bootstrap
        return None if self.identity is None else (self.identity_id, self.identity)


@dataclass(frozen=True, slots=True)
class EstOrder:
    """Where to ask, and how to authenticate there."""

    url: str
    auth: EstAuth


@dataclass(frozen=True, slots=True)
class Order:
    """One certificate to be issued. `life` None: 30 days; `subject` None: that of the request. Both are wishes that an
    EST server may ignore.
    """

    certificate_id: str
    method: Method
    subject: x509.Name | None
    life: timedelta | None
    est: EstOrder | None


@dataclass(frozen=True, slots=True)
class Issuing:
    """`[cert_issuance]`. `trusted` are certificates that may certify EST servers, beside the machine's store;
    `upstream` is how such servers are reached (None: as they are named). `further` are the certificates of
    `[cert_issuance.certs]`.
    """

    trusted: tuple[Path, ...] = ()
    identity_renewal: AutoRenew = field(default=AutoRenew())
    local_ca: Files | Order | None = None
    upstream: UpstreamAddress | None = None
    further: tuple[str, ...] = ()
    orders: Mapping[str, Order] = field(default_factory=lambda: MappingProxyType({}))


class IssuingReader(Reading):
    """Reads `[cert_issuance]`, then each order. Raises ConfigError."""

    def __init__(self, source: Path, table: CertIssuanceTable | None, module: Path | None = None) -> None:
        super().__init__(source, module)
        self._est = (table.est if table is not None else None) or EstTable()
        self._orders: dict[str, Order] = {}
        self._local_ca: Files | Order | None = None
        self._local_ca = None if table is None or table.local_ca is None else self._local(table.local_ca)
        further = {} if table is None else table.certs
        self._further_ids = tuple(further)
        for certificate_id, wanted in further.items():
            self._further(certificate_id, wanted)

    def _further(self, certificate_id: str, wanted: IssuedTable) -> None:
        name = f"cert_issuance.certs.{certificate_id}"
        if wanted.auto_renew is not None:
            raise self.not_offered(f"{name}.auto_renew", "whoever asks for this certificate renews it")
        self.order(name, certificate_id, wanted, common_name=None, fixed=False)

    @property
    def issuing(self) -> Issuing:
        """What was read so far."""
        return Issuing(
            trusted=tuple(self.path("cert_issuance.est.trusted_certs", url) for url in self._est.trusted_certs),
            identity_renewal=self.auto_renew("cert_issuance.est.identity_auto_renew", self._est.identity_auto_renew),
            local_ca=self._local_ca,
            orders=MappingProxyType(dict(self._orders)),
            further=self._further_ids,
        )

    def order(
        self,
        name: str,
        certificate_id: str,
        table: IssuedTable | EdgeCaTable,
        *,
        common_name: str | None,
        fixed: bool = True,
    ) -> Order:
        """An order for `certificate_id`. `common_name` is the default, or the only one that can be if it is `fixed`;
        without any, the subject is that of the request.
        """
        try:
            method = Method(table.method or "")
        except ValueError:
            raise self.wrong(f"{name}.method is {table.method!r}", fix=f"one of {', '.join(Method)}") from None
        if method is Method.LOCAL_CA and self._local_ca is None:
            raise self.wrong(
                f"{name}.method is local_ca and there is no [cert_issuance.local_ca]",
                reason="config-missing-key",
                fix="add [cert_issuance.local_ca] with cert and pk",
            )
        made = Order(
            certificate_id,
            method,
            self._subject(name, table, common_name, fixed=fixed),
            None if table.expiry_days is None else timedelta(days=self.days(f"{name}.expiry_days", table.expiry_days)),
            self._est_order(name, certificate_id, table) if method is Method.EST else None,
        )
        self._orders[certificate_id] = made
        return made

    def _subject(
        self, name: str, table: IssuedTable | EdgeCaTable, default: str | None, *, fixed: bool
    ) -> x509.Name | None:
        if table.common_name is not None and table.subject is not None:
            raise self.wrong(f"{name} has both common_name and subject")
        wanted = dict(table.subject or {})
        given = wanted.pop("CN", None) or table.common_name or default
        if given is None:
            if wanted:
                raise self.wrong(f"{name}.subject has no CN", reason="config-missing-key")
            return None
        if fixed and given != default:
            raise self.wrong(
                f"{name} has the common name {given!r}; that of a device's identity is its id, {default!r}",
                fix="leave it out",
            )
        if len(given.encode()) > COMMON_NAME_CHARACTERS:
            raise self.wrong(f"{name}: the common name {given!r} has more than {COMMON_NAME_CHARACTERS} bytes")
        attributes = [self._attribute(name, key, value) for key, value in wanted.items()]
        return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, given)])

    def _attribute(self, name: str, key: str, value: str) -> x509.NameAttribute[str]:
        oid = _ATTRIBUTES.get(key.upper())
        if oid is None:
            raise self.wrong(f"{name}.subject has {key!r}", fix=f"known: {', '.join(_ATTRIBUTES)}")
        try:
            return x509.NameAttribute(oid, value)
        except ValueError as problem:
            raise self.wrong(f"{name}.subject.{key}: {problem}") from problem

    def _est_order(self, name: str, certificate_id: str, table: IssuedTable | EdgeCaTable) -> EstOrder:
        url = table.url or self._est.urls.get(certificate_id) or self._est.urls.get("default")
        if url is None:
            raise self.wrong(
                f"{name} is to be issued by EST and there is no url",
                reason="config-missing-key",
                fix='add url, or default = "https://..." to [cert_issuance.est.urls]',
            )
        if urlsplit(url).scheme != "https" or not urlsplit(url).hostname:
            raise self.wrong(f"{name}: {url[:200]!r} is no https:// address of an EST server")
        own = EstAuthTable(
            table.username,
            table.password,
            table.identity_cert,
            table.identity_pk,
            table.bootstrap_identity_cert,
            table.bootstrap_identity_pk,
        )
        if own != EstAuthTable():
            return EstOrder(url, self._auth(name, own, f"{EST_ID}-{certificate_id}"))
        if self._est.auth is None:
            raise self.wrong(
                f"{name} is to be issued by EST and there is nothing to authenticate with",
                reason="config-missing-key",
                fix="add [cert_issuance.est.auth] with bootstrap_identity_cert and bootstrap_identity_pk",
            )
        return EstOrder(url, self._auth("cert_issuance.est.auth", self._est.auth, EST_ID))

    def _auth(self, name: str, table: EstAuthTable, identity_id: str) -> EstAuth:
        bootstrap = self._files(name, "bootstrap_identity", table.bootstrap_identity_cert, table.bootstrap_identity_pk)
        identity = self._files(name, "identity", table.identity_cert, table.identity_pk)
        if (table.username is None) != (table.password is None):
            raise self.wrong(f"{name} needs both username and password", reason="config-missing-key")
        if bootstrap is None and identity is None and table.username is None:
            raise self.wrong(f"{name} has nothing to authenticate with", reason="config-missing-key")
        password = None if table.password is None else SecretText(table.password)
        return EstAuth(table.username, password, None if bootstrap else identity, bootstrap, identity_id)

    def _files(self, name: str, what: str, certificate: str | None, key: str | None) -> Files | None:
        if (certificate is None) != (key is None):
            raise self.wrong(f"{name} needs both {what}_cert and {what}_pk", reason="config-missing-key")
        if certificate is None or key is None:
            return None
        return Files(self.path(f"{name}.{what}_cert", certificate), self.key_place(f"{name}.{what}_pk", key))

    def _local(self, table: LocalCaTable) -> Files | Order:
        if not isinstance(table.cert, str):
            name = "cert_issuance.local_ca.cert"
            if table.pk is not None:
                raise self.wrong("cert_issuance.local_ca.pk belongs to a file in cert; an issued one has its own key")
            if table.cert.method == Method.LOCAL_CA:
                raise self.wrong(f"{name}.method is local_ca: it cannot issue itself", fix="est or self_signed")
            made = self.order(name, LOCAL_CA, table.cert, common_name=None, fixed=False)
            if made.subject is None:
                raise self.wrong(f"{name} has no common_name", reason="config-missing-key")
            return made
        if table.pk is None:
            raise self.wrong("cert_issuance.local_ca needs both cert and pk", reason="config-missing-key")
        return Files(
            self.path("cert_issuance.local_ca.cert", table.cert),
            self.key_place("cert_issuance.local_ca.pk", table.pk),
        )
