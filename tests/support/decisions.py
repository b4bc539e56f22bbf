"""What the tests of the decision share: a clock, a small PKI, registrations."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from edgetrust.pki.chain import Chain, Thumbprint, TrustBundle
from edgetrust.pki.issue import Issuer, self_signed
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DEVICE, HUB_SERVER, ISSUING, ROOT
from edgetrust.pki.softkeys import SoftKey
from edgetrust.protocol.sas import parse_token, sign
from edgetrust.trust.authenticate import Policy
from edgetrust.trust.credential import ClientChain, SasToken
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Authentication, Registration, SasKeys, Thumbprints

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HUB = "hub.example"
DEVICE_1 = Identity(HUB, "d1")
MODULE_1 = Identity(HUB, "d1", "m1")
POLICY = Policy(hosts=frozenset({HUB}))
KEYS = SasKeys(SecretBytes(b"p" * 32), SecretBytes(b"s" * 32))
DEVICE_KEYS = SasKeys(SecretBytes(b"P" * 32), SecretBytes(b"S" * 32))


def registered(authentication: Authentication, identity: Identity = DEVICE_1, **changes: object) -> Registration:
    values: dict[str, object] = {
        "identity": identity,
        "authentication": authentication,
        "enabled": True,
        "edge": False,
        "generation": "638000000000000001",
        "etag": "MQ==",
        "scope": None,
        "parents": (),
        "as_of": NOW - timedelta(minutes=1),
    }
    return Registration(**{**values, **changes})  # type: ignore[arg-type]


def token(
    key: bytes = b"p" * 32,
    resource: str = "hub.example%2Fdevices%2Fd1",
    expires_in: int = 600,
    policy: str | None = None,
) -> SasToken:
    return parse_token(sign(key, resource, int(NOW.timestamp()) + expires_in, policy))


@dataclass
class Pki:
    """A root, an issuing CA, and devices below it."""

    root: Issuer = field(init=False)
    issuing: Issuer = field(init=False)

    def __post_init__(self) -> None:
        born = NOW - timedelta(days=30)
        key = SoftKey.generate("root")
        self.root = Issuer(key, self_signed(key, ROOT, Names("root"), born))
        self.issuing = self.below(self.root, "issuing", ISSUING, born)

    @staticmethod
    def below(parent: Issuer, name: str, profile: object, now: datetime, **dates: object) -> Issuer:
        key = SoftKey.generate(name)
        return Issuer(key, parent.issue(key.public_key(), profile, Names(name), now, **dates))  # type: ignore[arg-type]

    def device(self, name: str = "d1", profile: object = DEVICE, **dates: object) -> Chain:
        key = SoftKey.generate(name)
        names = Names(name, dns=("d1.example",)) if profile is HUB_SERVER else Names(name)
        now = dates.pop("now", NOW - timedelta(days=1))
        return self.issuing.issue(key.public_key(), profile, names, now, **dates)  # type: ignore[arg-type]

    def expired(self, name: str = "d1") -> Chain:
        return self.device(name, not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(seconds=1))

    def not_yet_valid(self, name: str = "d1") -> Chain:
        return self.device(name, not_before=NOW + timedelta(seconds=1), not_after=NOW + timedelta(days=9))

    def bundle(self) -> TrustBundle:
        return TrustBundle((self.root.certificate,), as_of=NOW)


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki()


def by_thumbprint(*chains: Chain, algorithm: str = "sha256") -> Thumbprints:
    slots = [Thumbprint.of(chain.end_entity, algorithm) for chain in chains]  # type: ignore[arg-type]
    return Thumbprints(slots[0], slots[1] if len(slots) > 1 else None)


def shown(chain: Chain) -> ClientChain:
    return ClientChain(chain)
