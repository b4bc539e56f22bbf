"""What the hub of `edgetrust up` takes over from the certificate authority that came along, while both run.

    whom it accepts       every CA that issues device certificates is registered at the hub as `est-NAME` from the time
                          that it is distributed, and removed when it is retired, which ends the connections below it
    what clients trust    the file of the trust bundle holds the roots in circulation
    what it shows         its server certificate comes from the CA that issues those now; while two roots are in
                          circulation, its chain goes on to the other one

Rules. Only a change is acted upon: what an operator did by hand stays done. Until a CA is rotated or renewed, or the
certificate is old, the hub keeps the certificate that it was given when its directory was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from cryptography import x509

from edgetrust.ca.authority import IN_BUNDLES, OWN_LISTENER, Authority, CertificateAuthority, Order, can_sign
from edgetrust.ca.ceremony import OPERATOR
from edgetrust.ca.service import RENEW_AFTER
from edgetrust.cli.certificates import read_chain
from edgetrust.hub.service import Hub
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DEVICE, HUB_SERVER
from edgetrust.pki.softkeys import SoftKey, write_private, write_public
from edgetrust.store.records import RegistryError


class HubFollows:
    """Follows one certificate authority on behalf of one hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._accepted: Mapping[str, x509.Certificate | None] = {}

    async def follow(self, authority: CertificateAuthority) -> None:
        """Take over what has changed. Raises the errors of the store and of the certificate authority."""
        await self._accept_devices(authority)
        self._write_bundle(authority)
        await self._serve(authority)

    async def _accept_devices(self, authority: CertificateAuthority) -> None:
        now = authority.clock.now()
        wanted = {
            f"est-{one.name}": one.row.certificate if one.row.state in IN_BUNDLES and _lives(one, now) else None
            for one in authority.authorities.values()
            if DEVICE.name in one.row.profiles
        }
        for name, certificate in wanted.items():
            if name not in self._accepted or self._accepted[name] != certificate:
                await self._accept(name, certificate)
        self._accepted = wanted

    async def _accept(self, name: str, certificate: x509.Certificate | None) -> None:
        certificates = self._hub.parts.certificates
        try:
            known = await certificates.certificate(name)
        except RegistryError:
            if certificate is not None:
                await certificates.put(name, certificate, verified=True)
            return
        if certificate is None:
            await certificates.delete(name, known.etag)
        elif known.certificate != certificate:
            await certificates.put(name, certificate, verified=True, if_match=known.etag)

    def _write_bundle(self, authority: CertificateAuthority) -> None:
        file, roots = self._hub.settings.trust_bundle, authority.bundle().anchors
        if roots and set(read_chain(file).certificates) != set(roots):
            write_public(file, authority.bundle().pem().encode())

    async def _serve(self, authority: CertificateAuthority) -> None:
        settings = self._hub.settings
        if not any(HUB_SERVER.name in one.row.profiles and can_sign(one) for one in authority.authorities.values()):
            return  # its key was taken away: what is served stays
        issuer = authority.issuer_for(HUB_SERVER.name)
        held = read_chain(settings.certificate)
        if not _is_due(held, issuer, authority):
            wanted = shown(Chain((held.end_entity, *issuer.chain.certificates)), authority)
            if issuer.row.certificate in held.intermediates and wanted != held:  # there are other roots now
                write_public(settings.certificate, wanted.pem().encode())
            return
        key = SoftKey.generate("hub", KeyAlgorithm.P256)
        names = Names.for_hosts(settings.name, *settings.aliases)
        issued = await authority.issue(
            Order(key.public_key(), HUB_SERVER, names, settings.name, OWN_LISTENER, OPERATOR), authority=issuer.name
        )
        write_private(settings.key, key.private_pem().reveal())
        write_public(settings.certificate, shown(issued.chain, authority).pem().encode())


def shown(chain: Chain, authority: CertificateAuthority) -> Chain:
    """A chain for clients that know either root: instead of a root that another one has certified, that certificate."""
    *below, root = chain.certificates
    bridges = [one for one in authority.cross if one.subject == root.subject]
    return Chain((*below, *(bridges or (root,))))


def _lives(authority: Authority, now: datetime) -> bool:
    return authority.row.certificate.not_valid_after_utc > now


def _is_due(chain: Chain, issuer: Authority, authority: CertificateAuthority) -> bool:
    now, held = authority.clock.now(), chain.end_entity
    begin, end = held.not_valid_before_utc, held.not_valid_after_utc
    if now >= begin + (end - begin) * RENEW_AFTER:
        return True
    above = chain.certificates[1:2]
    if issuer.row.certificate in above:
        return False
    ours = {one.row.certificate.subject for one in authority.authorities.values()}
    same_root = chain.certificates[-1] == issuer.chain.certificates[-1]
    return not same_root or any(one.subject in ours for one in above)
