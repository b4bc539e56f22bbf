"""CAs are renewed before they end: by themselves where that is possible; else it is said what is to be done."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgetrust.ca import rotation, upkeep
from edgetrust.ca.authority import ACTIVE, TAINTED, CertificateAuthority, Order
from edgetrust.ca.ceremony import NewAuthority, make_authority
from edgetrust.ca.est import cacerts_of
from edgetrust.ca.forecast import in_use
from edgetrust.errors import ConfigError, IntegrityError, UsageError
from edgetrust.pki.chain import Chain
from edgetrust.pki.csr import parse_csr
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import INTERMEDIATE, ISSUING, ROOT
from edgetrust.pki.renewal import Period
from edgetrust.pki.verify import Purpose, VerifiedChain, verify_chain
from support.ca import CaWorld, csr

FOUR_YEARS = timedelta(days=4 * 365 + 10)  # CAs live for five, the root for ten


def later(ca: CaWorld, span: timedelta) -> None:
    ca.clock.advance(span.total_seconds())


async def without_key(ca: CaWorld, name: str) -> None:
    """The key is taken away, and the process is another one."""
    (ca.authority.settings.data / "keys" / f"{name}.key.pem").rename(ca.authority.settings.data / f"{name}.away")
    ca.authority = await CertificateAuthority.open(ca.authority.settings, ca.authority.database, ca.clock)


async def key_back(ca: CaWorld, name: str) -> None:
    (ca.authority.settings.data / f"{name}.away").rename(ca.authority.settings.data / "keys" / f"{name}.key.pem")
    await ca.authority.refresh()


def spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def test_nothing_is_due_in_the_first_years(ca: CaWorld) -> None:
    assert await upkeep.keep_up(ca.authority) == ()
    assert upkeep.to_do(ca.authority, ca.authority.named("edge")) == (
        "nothing: it is renewed from 2029-12-30 on, with its key"
    )


async def test_with_the_same_key(ca: CaWorld) -> None:
    peer = await ca.password("dev1")
    old = ca.authority.named("edge").row.certificate
    later(ca, FOUR_YEARS)
    before = await ca.issued(csr("dev1", label="before"), peer)
    renewed = await upkeep.keep_up(ca.authority)
    assert sorted(renewed) == [(name, "") for name in ("bootstrap", "devices", "edge", "servers")]
    edge = ca.authority.named("edge")
    new = edge.row.certificate
    assert (new.subject, spki(new)) == (old.subject, spki(old))
    assert new.not_valid_after_utc - ca.clock.now() > timedelta(days=5 * 365 - 1)
    assert new.serial_number != old.serial_number
    assert cacerts_of(ca.authority, edge)[0] == new, "cacerts follow"
    now = ca.clock.now()
    for issued in (before, await ca.issued(csr("dev1", label="after"), peer)):
        chain = Chain((issued.row.certificate,))
        assert isinstance(verify_chain(chain, ca.authority.bundle(), Purpose.DEVICE, now), VerifiedChain)
    newest = (await ca.rows(identity="<edge>"))[0]
    assert (newest.operation, newest.authority, newest.certificate) == ("renew", "root", new)
    assert {one.name: one.not_after for one in await in_use(ca.authority)}["<edge>"] == new.not_valid_after_utc
    said = next(one.entry for one in await ca.audit() if one.entry.identity == "<edge>")
    assert (said.event, said.reason) == ("authority", "renew")
    assert await upkeep.keep_up(ca.authority) == (), "once"


async def test_the_threshold_is_a_setting(ca: CaWorld) -> None:
    ca.use(renew_authorities_at=Period.parse("90 day"))
    later(ca, FOUR_YEARS)
    assert await upkeep.keep_up(ca.authority) == ()


async def test_a_parent_before_its_children(ca: CaWorld) -> None:
    """Three years below a department that ends when they do: the department is renewed first, then they gain by it."""
    department = NewAuthority("department", Names("Department"), INTERMEDIATE, "root", validity=timedelta(days=100))
    await make_authority(ca.authority, department)
    await make_authority(ca.authority, NewAuthority("inner", Names("Inner"), ISSUING, "department"))
    later(ca, timedelta(days=90))
    assert await upkeep.keep_up(ca.authority) == (("department", ""), ("inner", ""))
    ends = {one.name: one.row.certificate.not_valid_after_utc for one in ca.authority.authorities.values()}
    assert ends["inner"] <= ends["department"]
    assert ends["inner"] > ca.clock.now() + timedelta(days=99)


async def test_the_parents_key_is_elsewhere(ca: CaWorld) -> None:
    await without_key(ca, "root")
    later(ca, FOUR_YEARS)
    file = upkeep.request_file(ca.authority, "edge")
    assert not file.exists()
    told = dict(await upkeep.keep_up(ca.authority))
    assert told["edge"] == (
        "bring the key of 'root' back for the moment (file:keys/root.key.pem), or "
        f"have {file} certified where the key above it is: edgetrust ca issue edge.csr.pem --profile intermediate "
        "--path-length 1 --authority root --out edge.chain.pem; then here: edgetrust ca install edge edge.chain.pem"
    )
    assert {one.name: one.to_do for one in await in_use(ca.authority)}["<edge>"] == told["edge"]
    asked = parse_csr(file.read_bytes())
    assert asked.subject == ca.authority.named("edge").row.certificate.subject
    with pytest.raises(UsageError) as caught:
        await upkeep.renew(ca.authority, "edge")
    assert (caught.value.reason, caught.value.fix) == ("authority-not-renewable", told["edge"])

    await key_back(ca, "root")
    names = Names("Test edge CA", organization="Test")
    issued = await ca.authority.issue(Order(asked, INTERMEDIATE, names, "edge", "issue", "operator"), authority="root")
    await upkeep.install_next(ca.authority, "edge", issued.chain)
    assert ca.authority.named("edge").row.certificate == issued.row.certificate
    assert not file.exists(), "it has been answered"
    with pytest.raises(UsageError, match="it ends no later than the one in use"):
        await upkeep.install_next(ca.authority, "edge", issued.chain)


async def test_the_key_that_comes_back_is_enough(ca: CaWorld) -> None:
    await without_key(ca, "root")
    later(ca, FOUR_YEARS)
    await upkeep.keep_up(ca.authority)
    await key_back(ca, "root")
    assert ("edge", "") in await upkeep.keep_up(ca.authority)
    assert not upkeep.request_file(ca.authority, "edge").exists()


async def test_what_is_not_the_next_certificate(ca: CaWorld) -> None:
    await make_authority(ca.authority, NewAuthority("stranger", Names("Test root CA", organization="Test"), ROOT, None))
    edge = ca.authority.named("edge")
    assert edge.issuer is not None
    key, longer = edge.issuer.key.public_key(), timedelta(days=5 * 365 + 1)

    async def made(name: str, signer: str, profile: object = INTERMEDIATE) -> Chain:
        names = Names(name, organization="Test")
        order = Order(key, profile, names, "edge", "issue", "operator", validity=longer)  # type: ignore[arg-type]
        return (await ca.authority.issue(order, authority=signer)).chain

    for chain, why in (
        (await made("Another", "root"), "its subject is"),
        (await made("Test edge CA", "stranger"), "did not sign it"),
    ):
        with pytest.raises(UsageError, match=why) as caught:
            await upkeep.install_next(ca.authority, "edge", chain)
        assert caught.value.reason == "certificate-not-next"
    with pytest.raises(IntegrityError) as mismatch:
        await upkeep.install_next(ca.authority, "devices", await made("Test device identity CA", "root"))
    assert mismatch.value.reason == "key-certificate-mismatch"
    assert ca.authority.named("edge").row.certificate == edge.row.certificate


async def test_with_a_new_key_a_successor_takes_over(ca: CaWorld) -> None:
    ca.use(renew_authorities="new-key")
    later(ca, FOUR_YEARS)
    peer = await ca.password("dev1")
    old = await ca.issued(csr("dev1", label="old"), peer)
    assert ("edge", "") in await upkeep.keep_up(ca.authority)
    default = ca.authority.default()
    assert default is not None
    assert default.name == "edge-2"
    assert spki(default.row.certificate) != spki(ca.authority.named("edge").row.certificate)
    now = ca.clock.now()
    assert isinstance(verify_chain(old.chain, ca.authority.bundle(), Purpose.DEVICE, now), VerifiedChain)
    assert await upkeep.keep_up(ca.authority) == (), "its successor issues, and the evidence for more is not in"
    ca.clock.advance(60)
    await ca.issued(csr("dev1", label="new"), peer, label="edge-2")
    await upkeep.keep_up(ca.authority)
    assert ca.authority.named("edge").row.state == TAINTED, "edge-2 has issued"
    await upkeep.keep_up(ca.authority)
    assert (await rotation.named(ca.authority, "edge")).stage is rotation.Stage.RETIRED, "nobody uses the old one"


async def test_never(ca: CaWorld) -> None:
    ca.use(renew_authorities="never")
    later(ca, FOUR_YEARS)
    assert dict(await upkeep.keep_up(ca.authority))["edge"] == "edgetrust ca renew edge"
    before = ca.authority.named("edge").row.certificate
    await upkeep.renew(ca.authority, "edge")
    assert ca.authority.named("edge").row.certificate.not_valid_after_utc > before.not_valid_after_utc


async def test_a_root_is_rotated_by_a_person(ca: CaWorld) -> None:
    later(ca, FOUR_YEARS)
    await upkeep.keep_up(ca.authority)
    later(ca, FOUR_YEARS)
    told = dict(await upkeep.keep_up(ca.authority))
    rotate = "put a new root in its place: edgetrust ca rotate start root"
    assert told["root"] == rotate
    assert told["edge"] == "", "as far as the root reaches"
    assert upkeep.to_do(ca.authority, ca.authority.named("edge")) == f"it ends with 'root' above it: {rotate}"
    assert {one.name: one.to_do for one in await in_use(ca.authority)}["<root>"] == rotate
    assert not upkeep.request_file(ca.authority, "root").exists()


async def test_of_two_processes_one_renews(ca: CaWorld) -> None:
    other = await CertificateAuthority.open(ca.authority.settings, ca.authority.database, ca.clock)
    later(ca, FOUR_YEARS)
    await upkeep.renew(ca.authority, "edge")
    rows = await ca.rows(identity="<edge>")
    with pytest.raises(ConfigError) as caught:
        await upkeep.renew(other, "edge")
    assert caught.value.reason == "authority-changed"
    assert await ca.rows(identity="<edge>") == rows
    await other.refresh()
    assert other.named("edge").row.certificate == ca.authority.named("edge").row.certificate


async def test_what_is_not_active_is_left_alone(ca: CaWorld) -> None:
    later(ca, FOUR_YEARS)
    edge = ca.authority.named("edge")
    ca.authority.authorities["edge"] = replace(edge, row=replace(edge.row, state=TAINTED))
    assert "edge" not in dict(await upkeep.keep_up(ca.authority))
    assert ca.authority.named("edge").row.state in (TAINTED, ACTIVE)
    with pytest.raises(UsageError, match="there is no CA"):
        await upkeep.renew(ca.authority, "nobody")
