"""A new CA in the place of an old one: no step without its evidence, every step can be undone, nobody is cut off."""

from __future__ import annotations

import pytest
from cryptography import x509

from edgetrust.ca import rotation
from edgetrust.ca.est import cacerts_of
from edgetrust.ca.rotation import Stage
from edgetrust.errors import RefusedError, UsageError
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.verify import Purpose, VerifiedChain, verify_chain
from edgetrust.store.authorities import note_fetch
from edgetrust.store.issuance import thumbprint_of
from support.ca import CaWorld, csr


async def go(ca: CaWorld, name: str, *, back: bool = False, despite: bool = False) -> Stage:
    step = await rotation.preview(ca.authority, await rotation.named(ca.authority, name), back=back)
    return await rotation.take(ca.authority, step, back=back, despite=despite)


async def refused(ca: CaWorld, name: str, who: str) -> None:
    with pytest.raises(RefusedError, match=who) as caught:
        await go(ca, name)
    assert caught.value.reason == "rotation-evidence"


async def fetched(ca: CaWorld, who: str) -> None:
    roots = [thumbprint_of(anchor) for anchor in ca.authority.bundle().anchors]
    now = ca.clock.now()
    for root in roots:
        await ca.authority.database.write(lambda connection, root=root: note_fetch(connection, who, root, now))


def roots(ca: CaWorld) -> list[str]:
    return sorted(anchor.subject.rfc4514_string() for anchor in ca.authority.bundle().anchors)


OLD, NEW = "CN=Test root CA,O=Test", "CN=Test root CA G2,O=Test"


async def test_a_root_with_everything_below_it(ca: CaWorld) -> None:
    peer = await ca.password("dev1")
    before = await ca.issued(csr("dev1", label="old"), peer)
    made = await rotation.start(ca.authority, "root")
    assert dict(made.pairs) == {
        "root": "root-2",
        "bootstrap": "bootstrap-2",
        "devices": "devices-2",
        "edge": "edge-2",
        "servers": "servers-2",
    }
    assert roots(ca) == [OLD], "prepared: nobody sees it"
    assert await go(ca, "root") is Stage.DISTRIBUTED
    assert roots(ca) == sorted([OLD, NEW])
    shown = cacerts_of(ca.authority, ca.authority.named("edge"))
    crossed = [one for one in shown if one.subject != one.issuer and "root" in one.subject.rfc4514_string()]
    assert sorted((one.subject.rfc4514_string(), one.issuer.rfc4514_string()) for one in crossed) == [
        (NEW, OLD),
        (OLD, NEW),
    ]
    assert (await ca.issued(csr("dev1", label="old"), peer)).row.authority == "edge"
    await refused(ca, "root", "dev1: has not fetched the new root")
    await fetched(ca, "dev1")
    assert await go(ca, "root") is Stage.ACTIVE
    assert ca.authority.default() is ca.authority.named("edge-2")
    assert ca.authority.addressed("edge") is ca.authority.named("edge-2"), "the old label means the new CA"
    await refused(ca, "root", "<edge-2>: has not issued a certificate yet")
    ca.clock.advance(60)
    after = await ca.issued(csr("dev1", label="new"), peer, label="edge-2")
    assert await go(ca, "root") is Stage.TAINTED
    assert await go(ca, "root") is Stage.RETIRED, "dev1 has renewed"
    assert roots(ca) == [NEW]
    bundle = ca.authority.bundle()
    now = ca.clock.now()
    assert isinstance(verify_chain(after.chain, bundle, Purpose.DEVICE, now), VerifiedChain)
    assert not isinstance(verify_chain(before.chain, bundle, Purpose.DEVICE, now), VerifiedChain)
    with pytest.raises(UsageError, match="is over"):
        await go(ca, "root")


async def test_cross_certificates_bridge_both_ways(ca: CaWorld) -> None:
    peer = await ca.password("dev1")
    await rotation.start(ca.authority, "root")
    await go(ca, "root")
    await fetched(ca, "dev1")
    await go(ca, "root")
    old = await ca.issued(csr("dev1"), peer)
    new = await ca.issued(csr("dev1"), peer, label="edge-2")
    now = ca.clock.now()
    for issued, root in ((old, "root-2"), (new, "root")):
        anchor = ca.authority.named(root).row.certificate
        shown = Chain((issued.row.certificate, *issued.chain.intermediates[:-1], *ca.authority.cross))
        assert isinstance(verify_chain(shown, TrustBundle((anchor,), as_of=now), Purpose.DEVICE, now), VerifiedChain)


async def test_who_has_not_renewed_keeps_the_old_ca(ca: CaWorld) -> None:
    peer = await ca.password("dev1")
    await ca.issued(csr("dev1", label="old"), peer)
    await rotation.start(ca.authority, "edge")
    assert await go(ca, "edge") is Stage.DISTRIBUTED
    assert await go(ca, "edge") is Stage.ACTIVE, "an issuing CA below a trusted root needs no distribution"
    other = await ca.password("dev2")
    await ca.issued(csr("dev2"), other, label="edge-2")
    assert await go(ca, "edge") is Stage.TAINTED
    await refused(ca, "edge", "dev1: uses a certificate of the old CA")
    assert await go(ca, "edge", despite=True) is Stage.RETIRED
    newest = (await ca.audit())[0].entry
    assert (newest.event, newest.reason) == ("rotation", "retired")
    assert "dev1: uses a certificate of the old CA" in newest.detail


async def test_every_step_can_be_undone(ca: CaWorld) -> None:
    await rotation.start(ca.authority, "edge")
    states = []
    for _ in range(4):
        states.append((ca.authority.named("edge").row.state, ca.authority.named("edge-2").row.state, _default(ca)))
        await go(ca, "edge", despite=True)
    assert _default(ca) == "edge-2"
    for expected in reversed(states):
        await go(ca, "edge", back=True)
        assert (ca.authority.named("edge").row.state, ca.authority.named("edge-2").row.state, _default(ca)) == expected
    await go(ca, "edge", back=True)
    assert await rotation.rotations(ca.authority) == ()
    assert ca.authority.named("edge-2").row.state == "retired"
    again = await rotation.start(ca.authority, "edge")
    assert again.pairs == (("edge", "edge-3"),)


def _default(ca: CaWorld) -> str:
    found = ca.authority.default()
    assert found is not None
    return found.name


async def test_a_preview_changes_nothing(ca: CaWorld) -> None:
    await rotation.start(ca.authority, "root")
    step = await rotation.preview(ca.authority, await rotation.named(ca.authority, "root"))
    assert (step.to, step.lacks) == (Stage.DISTRIBUTED, ())
    assert roots(ca) == [OLD]


async def test_what_cannot_be_rotated(ca: CaWorld) -> None:
    with pytest.raises(UsageError, match="there is no CA"):
        await rotation.start(ca.authority, "nobody")
    with pytest.raises(UsageError, match="is not being rotated"):
        await rotation.named(ca.authority, "edge")
    await rotation.start(ca.authority, "edge")
    with pytest.raises(UsageError, match="being rotated already"):
        await rotation.start(ca.authority, "edge")


async def test_the_generation_is_counted_in_the_name(ca: CaWorld) -> None:
    await rotation.start(ca.authority, "edge")
    for _ in range(4):
        await go(ca, "edge", despite=True)
    made = await rotation.start(ca.authority, "edge-2")
    assert made.pairs == (("edge-2", "edge-3"),)
    subject = ca.authority.named("edge-3").row.certificate.subject
    assert str(subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value) == "Test edge CA G3"
    assert ca.authority.addressed("edge") is ca.authority.named("edge-2")
