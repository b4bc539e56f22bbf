"""Issuing by configuration: self-signed, by the local CA, or by EST with an identity that a bootstrap certificate buys.

Rules of EST (edge specification 3.5). 1. An EST identity that is there and valid authenticates; it is renewed first
when it is due, and if that fails the old one still serves. 2. Without one, or when it has ended, the bootstrap
certificate asks for a new one, with a new key, at the address of the certificate that is wanted; then the new identity
asks for that. 3. An identity takes the place of another only when a connection with it has worked. 4. Everything uses
`simpleenroll`, as the real product does.

It must not know what a certificate is for, and stores none but EST identities.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgetrust.clock import Clock
from edgetrust.device.enroll import check_dates
from edgetrust.device.est import EstServer, Shown, ca_certificates, enroll
from edgetrust.edge.files import LOCAL_CA
from edgetrust.edge.issuing import EstAuth, EstOrder, Files, Issuing, Method, Order
from edgetrust.edge.keyd import SecretsElsewhere
from edgetrust.edge.pairs import Certificates, Pairs, read_chain
from edgetrust.edge.signing import ca_extensions, sign_by, sign_itself
from edgetrust.edge.tokens import load_place
from edgetrust.errors import ConfigError, Error, IntegrityError
from edgetrust.pki.chain import Chain, TrustBundle, key_matches, load_system_bundle
from edgetrust.pki.csr import Csr, parse_csr, request_for
from edgetrust.pki.issue import Issuer
from edgetrust.pki.keys import ClientKey, HeldKey, KeyAlgorithm, KeyHandle, KeyStore, TlsKey
from edgetrust.pki.renewal import RenewalState, next_attempt
from edgetrust.telemetry import EVENT_CERTIFICATE_NOT_RENEWED, EVENT_CERTIFICATE_RENEWED

_CLIENT_AUTH = ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EstIdentity:
    """An EST identity in use, for who shows the state."""

    identity_id: str
    chain: Chain
    state: RenewalState


class ConfiguredIssuer:
    """Issues the certificates that a configuration orders."""

    def __init__(self, issuing: Issuing, keys: KeyStore, store: Certificates, clock: Clock) -> None:
        self._issuing = issuing
        self._keys = keys
        self._store = store
        self._pairs = Pairs(keys, store)
        self._clock = clock
        self._states: dict[str, RenewalState] = {}
        self._making_local_ca = asyncio.Lock()
        self._enrolling = asyncio.Lock()  # one identity is bought once, however many certificates want it

    async def issue(self, order: Order, csr: bytes, *, key_id: str | None = None) -> Chain:
        """A certificate for `csr` (PEM). `key_id` names its key where the certificate signs itself.

        Raises CsrError, EstRefusedError, EstAnswerError, UnavailableError, ConfigError, IntegrityError.
        """
        request = parse_csr(csr)
        match order.method:
            case Method.SELF_SIGNED:
                key = await asyncio.to_thread(self._keys.load, key_id or order.certificate_id)
                return await asyncio.to_thread(
                    sign_itself, key, request, self._clock.now(), life=order.life, subject=order.subject
                )
            case Method.LOCAL_CA:
                issuer = await self._local_ca()
                return await asyncio.to_thread(
                    sign_by, issuer, request, self._clock.now(), life=order.life, subject=order.subject
                )
            case Method.EST:
                assert order.est is not None, "an order for EST says where"
                return await self._by_est(order, order.est, request, csr)

    async def _local_ca(self) -> Issuer:
        match self._issuing.local_ca:
            case None:
                raise ConfigError("there is no [cert_issuance.local_ca]", reason="config-missing-key")
            case Files() as files:
                issuer = await asyncio.to_thread(self._local_from_files, files)
                await asyncio.to_thread(self._store.save, LOCAL_CA, issuer.chain)
                return issuer
            case Order() as order:
                async with self._making_local_ca:
                    return await self._issued_local_ca(order)

    def _local_from_files(self, files: Files) -> Issuer:
        held = isinstance(self._keys, SecretsElsewhere)
        key = self._keys.load(LOCAL_CA) if held else load_place(files.key)
        return Issuer(key, read_chain(files.certificate))

    async def _issued_local_ca(self, order: Order) -> Issuer:
        """The local CA that is issued itself: the one in use, or a new one when there is none or it has ended."""
        await asyncio.to_thread(self._pairs.recover, LOCAL_CA)
        stored = await asyncio.to_thread(self._store.load, LOCAL_CA)
        if stored is not None and stored.end_entity.not_valid_after_utc > self._clock.now():
            return Issuer(await asyncio.to_thread(self._keys.load, LOCAL_CA), stored)
        assert order.subject is not None, "an issued local CA has a name"
        key = await asyncio.to_thread(self._pairs.new_key, LOCAL_CA, KeyAlgorithm.P256)
        request = request_for(key, order.subject, ca_extensions(path_length=None))
        chain = await self.issue(order, request, key_id=key.key_id)
        key_matches(chain, key)
        await asyncio.to_thread(self._pairs.promote, LOCAL_CA, chain)
        return Issuer(await asyncio.to_thread(self._keys.load, LOCAL_CA), chain)

    # EST ------------------------------------------------------------------------------------------------------------

    async def _by_est(self, order: Order, est: EstOrder, request: Csr, csr: bytes) -> Chain:
        server = await asyncio.to_thread(self._server, est)
        shown = await self._shown(est, server, order.subject or request.subject)
        return await enroll(server, csr, shown)

    def _server(self, est: EstOrder) -> EstServer:
        bundle = est_bundle(self._issuing, self._clock)
        upstream = self._issuing.upstream
        instead = None if upstream is None else upstream.instead_of(est.url)
        return EstServer(est.url, bundle, est.auth.user, est.auth.password, instead)

    async def _shown(self, est: EstOrder, server: EstServer, subject: x509.Name) -> Shown | None:
        auth = est.auth
        if auth.identity is not None:
            return await asyncio.to_thread(self._from_files, auth)
        if auth.bootstrap is None:
            return None
        async with self._enrolling:
            held = await asyncio.to_thread(self._held, auth.identity_id)
            if held is None:
                return await self._bought(auth, server, subject)
            if next_attempt(held.chain, self._issuing.identity_renewal, self._state(auth), self._clock.now()) <= (
                self._clock.now()
            ):
                return await self._renewed(auth, server, held)
            return held

    def _held(self, identity_id: str) -> Shown | None:
        """The identity in use, if it can authenticate now. What cannot be used is as good as none."""
        self._pairs.recover(identity_id)
        try:
            chain = self._store.load(identity_id)
            if chain is None or chain.end_entity.not_valid_after_utc <= self._clock.now():
                return None
            return Shown(chain, tls_key(Issuer(self._keys.load(identity_id), chain).key))
        except (ConfigError, IntegrityError) as problem:
            _log.warning(EVENT_CERTIFICATE_NOT_RENEWED, certificate_id=identity_id, detail=problem.message)
            return None

    async def _bought(self, auth: EstAuth, server: EstServer, subject: x509.Name) -> Shown:
        bootstrap = await asyncio.to_thread(self._from_files, auth)
        return await self._enrolled(auth, server, subject, bootstrap, rotate=True)

    def _from_files(self, auth: EstAuth) -> Shown:
        assert auth.files is not None, "there is a certificate to authenticate with"
        key_id, files = auth.files
        held = isinstance(self._keys, SecretsElsewhere)
        issuer = Issuer(self._keys.load(key_id) if held else load_place(files.key), read_chain(files.certificate))
        return Shown(issuer.chain, tls_key(issuer.key))

    async def _renewed(self, auth: EstAuth, server: EstServer, held: Shown) -> Shown:
        subject, rotate = held.chain.end_entity.subject, self._issuing.identity_renewal.rotate_key
        try:
            return await self._enrolled(auth, server, subject, held, rotate=rotate)
        except (Error, OSError) as problem:  # the old one still serves, and there is always another attempt
            self._states[auth.identity_id] = self._state(auth).failed(self._clock.now(), str(problem))
            _log.warning(EVENT_CERTIFICATE_NOT_RENEWED, certificate_id=auth.identity_id, detail=str(problem))
            return held

    async def _enrolled(
        self, auth: EstAuth, server: EstServer, subject: x509.Name, shown: Shown, *, rotate: bool
    ) -> Shown:
        identity_id = auth.identity_id
        if rotate:
            key = await asyncio.to_thread(self._pairs.new_key, identity_id, KeyAlgorithm.P256)
        else:
            key = await asyncio.to_thread(self._keys.load, identity_id)
        chain = await enroll(server, request_for(key, subject, _CLIENT_AUTH), shown)
        made = Shown(chain, tls_key(key))
        check_dates(chain.end_entity, self._clock.now())
        await ca_certificates(server, made)
        await asyncio.to_thread(self._pairs.promote, identity_id, chain)
        self._states[identity_id] = self._state(auth).renewed(self._clock.now())
        _log.info(
            EVENT_CERTIFICATE_RENEWED,
            certificate_id=identity_id,
            asked_as=shown.chain.end_entity.subject.rfc4514_string(),
            until=chain.end_entity.not_valid_after_utc.isoformat(),
        )
        return Shown(chain, tls_key(await asyncio.to_thread(self._keys.load, identity_id)))  # by its new name

    def _state(self, auth: EstAuth) -> RenewalState:
        return self._states.get(auth.identity_id, RenewalState())

    async def keep_identities(self) -> None:
        """Renew the EST identities that are there and due. Failures are in their state."""
        orders = {order.est.auth.identity_id: order for order in self._issuing.orders.values() if order.est is not None}
        for identity_id, order in orders.items():
            held = await asyncio.to_thread(self._held, identity_id)
            if order.est is not None and held is not None:
                server = await asyncio.to_thread(self._server, order.est)
                await self._shown(order.est, server, held.chain.end_entity.subject)

    def identities(self) -> list[EstIdentity]:
        """The EST identities in use. One whose file is damaged is none; `keep_identities` says so."""
        wanted = dict.fromkeys(
            order.est.auth.identity_id for order in self._issuing.orders.values() if order.est is not None
        )
        held = [(identity_id, self._stored(identity_id)) for identity_id in wanted]
        return [
            EstIdentity(identity_id, chain, self._states.get(identity_id, RenewalState()))
            for identity_id, chain in held
            if chain is not None
        ]

    def _stored(self, identity_id: str) -> Chain | None:
        try:
            return self._store.load(identity_id)
        except ConfigError:
            return None


def est_bundle(issuing: Issuing, clock: Clock) -> TrustBundle:
    """What verifies EST servers: the machine's trust store and the certificates that are named. Raises ConfigError."""
    bundle = load_system_bundle(clock.now())
    for path in issuing.trusted:
        bundle = bundle.with_(anchors=read_chain(path).certificates)
    return bundle


def tls_key(key: KeyHandle) -> ClientKey:
    """The key for TLS clients. Raises IntegrityError for one that TLS cannot use here."""
    if not isinstance(key, TlsKey | HeldKey):
        raise IntegrityError(
            f"the key {key.key_id!r} cannot be used for TLS from here",
            reason="key-unfit",
            fix="keep it in a file",
        )
    return key
