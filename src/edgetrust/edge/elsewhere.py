"""The other services of a gateway when each is a process of its own, as the runtime of modules uses them."""

from __future__ import annotations

from dataclasses import dataclass

from edgetrust.edge.certclient import CertificateClient, IssuerClient
from edgetrust.edge.files import Layout
from edgetrust.edge.identityclient import IdentityClient
from edgetrust.edge.issuing import Issuing
from edgetrust.edge.keyclient import KeyClient


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Keys, certificates and identities of one gateway, each in its own process."""

    keys: KeyClient
    certificates: CertificateClient
    issuer: IssuerClient
    identities: IdentityClient

    @classmethod
    def below(cls, layout: Layout, issuing: Issuing) -> Elsewhere:
        """The services on the sockets below a root."""
        keys = KeyClient(layout.socket("keyd"))
        certificates = CertificateClient(layout.socket("certd"), layout.certificates)
        identities = IdentityClient(layout.socket("identityd"), keys, layout.own / "edgehub.json")
        return cls(keys, certificates, IssuerClient(certificates, issuing.orders), identities)
