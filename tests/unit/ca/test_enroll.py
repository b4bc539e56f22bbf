"""Who gets which certificate, and that whoever is refused leaves nothing but a record."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgetrust.ca.authority import Issued
from edgetrust.ca.enroll import Peer, Waiting
from edgetrust.ca.policy import CredentialKind, Registered, Rule
from edgetrust.ca.reasons import IssuanceReason as Why
from edgetrust.pki.keys import SecretText
from edgetrust.pki.profiles import BOOTSTRAP, EDGE_CA, GATEWAY_SERVER
from edgetrust.store.est import DENIED, decide_request, read_requests, release_claim
from edgetrust.store.issuance import mark_revoked
from support.ca import CaWorld, csr, edge_ca_extensions, peer_of, san
from support.pki import Pki, key

EKU = x509.ExtendedKeyUsage


class TestCredentials:
    async def test_nothing_shown(self, ca: CaWorld) -> None:
        await ca.refused(Why.UNAUTHENTICATED, csr())

    async def test_a_password_is_good_for_its_name(self, ca: CaWorld) -> None:
        peer = await ca.password("dev1")
        issued = await ca.issued(csr("dev1"), peer)
        assert issued.row.identity == "dev1"
        assert issued.row.credential == "password:dev1"
        assert [c.subject for c in issued.chain.certificates][-1] == ca.authority.named("root").row.certificate.subject
        await ca.refused(Why.NAME_NOT_GRANTED, csr("dev2"), peer)

    async def test_a_password_may_be_for_many_names(self, ca: CaWorld) -> None:
        peer = await ca.password("site", "sensor-*")
        await ca.issued(csr("sensor-1"), peer)
        await ca.issued(csr("sensor-2"), peer)
        await ca.refused(Why.NAME_NOT_GRANTED, csr("gateway"), peer)

    async def test_wrong_unknown_and_expired_passwords(self, ca: CaWorld) -> None:
        await ca.password("dev1", hours=1)
        await ca.refused(Why.PASSWORD_WRONG, csr(), Peer("192.0.2.1", basic=("dev1", SecretText("wrong"))))
        await ca.refused(Why.PASSWORD_WRONG, csr(), Peer("192.0.2.1", basic=("nobody", SecretText("right"))))
        ca.clock.advance(3_601)
        await ca.refused(Why.PASSWORD_EXPIRED, csr(), Peer("192.0.2.1", basic=("dev1", SecretText("right"))))

    async def test_a_one_time_password_is_good_once_and_again_for_the_same_key(self, ca: CaWorld) -> None:
        peer = await ca.password("dev1", uses=1)
        first = await ca.issued(csr("dev1", label="a"), peer)
        again = await ca.issued(csr("dev1", label="a"), peer)
        assert first.row.serial != again.row.serial
        await ca.refused(Why.PASSWORD_USED, csr("dev1", label="b"), peer)

    async def test_one_use_is_one_use_however_many_ask_at_once(self, ca: CaWorld) -> None:
        peer = await ca.password("dev1", uses=1)
        outcomes = await asyncio.gather(*(ca.enroll(csr("dev1", label=f"race {n}"), peer) for n in range(8)))
        assert sum(isinstance(one, Issued) for one in outcomes) == 1

    async def test_a_right_password_does_not_rescue_a_bad_certificate(self, ca: CaWorld) -> None:
        good = await ca.password("dev1")
        stranger = Pki(ca.clock.now()).device("dev1")
        await ca.refused(Why.CERTIFICATE_UNTRUSTED, csr(), replace(peer_of(stranger.certificate), basic=good.basic))

    async def test_nor_a_good_certificate_a_wrong_password(self, ca: CaWorld) -> None:
        holder = await ca.holder("dev1")
        await ca.refused(Why.PASSWORD_WRONG, csr(), replace(holder, basic=("dev1", SecretText("wrong"))))

    async def test_an_identity_gets_itself_only(self, ca: CaWorld) -> None:
        holder = await ca.holder("dev1")
        await ca.issued(csr("dev1"), holder)
        await ca.refused(Why.NAME_NOT_GRANTED, csr("dev2"), holder)

    async def test_expired_and_revoked_certificates(self, ca: CaWorld) -> None:
        holder = await ca.holder("dev1")
        rows = await ca.rows(identity="dev1")
        await ca.authority.database.write(
            lambda connection: mark_revoked(connection, rows, ca.clock.now(), "keyCompromise")
        )
        await ca.refused(Why.CERTIFICATE_REVOKED, csr("dev1"), holder)
        other = await ca.holder("dev2")
        ca.clock.advance(91 * 86_400)
        await ca.refused(Why.CERTIFICATE_EXPIRED, csr("dev2"), other)

    async def test_certificates_of_others_for_servers_and_of_nobody(self, ca: CaWorld) -> None:
        foreign = Pki(ca.clock.now()).device("dev1")
        await ca.refused(Why.CERTIFICATE_UNTRUSTED, csr("dev1"), peer_of(foreign.certificate))
        server = await ca.authority.issue(_server_order(ca))
        await ca.refused(Why.CERTIFICATE_UNTRUSTED, csr("dev1"), peer_of(server.row.certificate))
        await ca.refused(Why.CERTIFICATE_UNTRUSTED, csr("dev1"), Peer("192.0.2.1", (b"\x30\x03nonsense",)))

    async def test_a_certificate_that_this_ca_does_not_remember(self, ca: CaWorld) -> None:
        """Signed with the right key, but not in the store: a stolen CA key, or a store that lost rows."""
        issuer = ca.authority.named("edge").issuer
        assert issuer is not None
        from edgetrust.pki.names import Names
        from edgetrust.pki.profiles import DEVICE

        chain = issuer.issue(key("forged").public_key(), DEVICE, Names("dev1"), ca.clock.now())
        await ca.refused(Why.CERTIFICATE_UNTRUSTED, csr("dev1"), peer_of(chain.end_entity))

    async def test_a_bootstrap_authority_of_another_company(self, ca: CaWorld) -> None:
        maker = Pki(ca.clock.now(), intermediates=0)
        born = maker.root.issue("batch-7", now=ca.clock.now())
        await ca.refused(Why.CERTIFICATE_UNTRUSTED, csr("batch-7-0001"), peer_of(born.certificate))
        ca.bootstrap_authorities(maker.root.certificate)
        await ca.issued(csr("batch-7-0001"), peer_of(born.certificate))

    async def test_two_credentials_where_the_rule_wants_two(self, ca: CaWorld) -> None:
        ca.use(rules=(Rule(CredentialKind.BOOTSTRAP, names=("*",), also=CredentialKind.PASSWORD),))
        bootstrap, password = await ca.bootstrap("b"), await ca.password("site", "*")
        await ca.refused(Why.PASSWORD_NEEDED, csr("d1"), bootstrap)
        await ca.issued(csr("d1"), replace(bootstrap, basic=password.basic))
        ca.use(rules=(Rule(CredentialKind.PASSWORD, names=("*",), also=CredentialKind.BOOTSTRAP),))
        await ca.refused(Why.CERTIFICATE_NEEDED, csr("d2"), password)


def _server_order(ca: CaWorld):
    from edgetrust.ca.authority import Order
    from edgetrust.pki.names import Names

    public = key("server").public_key()
    return Order(public, GATEWAY_SERVER, Names("dev1", dns=("dev1.example",)), "dev1", "test", "operator")


class TestClaims:
    async def test_a_bootstrap_certificate_claims_a_name_of_its_batch_once(self, ca: CaWorld) -> None:
        batch = await ca.bootstrap("batch-7")
        await ca.issued(csr("batch-7-0001", label="a"), batch)
        await ca.refused(Why.ALREADY_CLAIMED, csr("batch-7-0001", label="b"), batch)
        await ca.issued(csr("batch-7-0002"), batch)
        await ca.refused(Why.NAME_NOT_GRANTED, csr("batch-8-0001"), batch)

    async def test_a_lost_answer_can_be_asked_for_again_with_the_same_key(self, ca: CaWorld) -> None:
        batch = await ca.bootstrap("batch-7")
        first = await ca.issued(csr("batch-7-0001"), batch)
        again = await ca.issued(csr("batch-7-0001"), batch)
        assert first.row.serial != again.row.serial

    async def test_two_that_claim_at_once(self, ca: CaWorld) -> None:
        batch = await ca.bootstrap("batch-7")
        outcomes = await asyncio.gather(*(ca.enroll(csr("batch-7-1", label=f"claim {n}"), batch) for n in range(6)))
        assert sum(isinstance(one, Issued) for one in outcomes) == 1

    async def test_a_released_name_can_be_claimed_again(self, ca: CaWorld) -> None:
        batch = await ca.bootstrap("batch-7")
        await ca.issued(csr("batch-7-0001", label="a"), batch)
        assert await ca.authority.database.write(lambda connection: release_claim(connection, "batch-7-0001"))
        await ca.issued(csr("batch-7-0001", label="b"), batch)

    async def test_a_bootstrap_certificate_gets_no_bootstrap_certificate_and_no_ca(self, ca: CaWorld) -> None:
        batch = await ca.bootstrap("batch-7")
        await ca.refused(Why.CA_NOT_GRANTED, csr("batch-7-1", extensions=edge_ca_extensions()), batch)
        await ca.refused(Why.PROFILE_NOT_SERVED, csr("batch-7-1"), batch, label="bootstrap")


class TestEdgeCa:
    async def test_a_registered_gateway_gets_an_edge_ca(self, ca: CaWorld) -> None:
        ca.registered["gw1"] = Registered.GATEWAY
        holder = await ca.holder("gw1")
        issued = await ca.issued(csr("aziot-edge CA gw1", extensions=edge_ca_extensions()), holder)
        assert (issued.row.profile, issued.row.identity) == (EDGE_CA.name, "gw1")
        basic = issued.row.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert (basic.ca, basic.path_length) == (True, 0)

    async def test_other_spellings_of_the_gateways_name(self, ca: CaWorld) -> None:
        ca.registered["EdgeGateway"] = Registered.GATEWAY
        holder = await ca.holder("EdgeGateway")
        for name in ("iotedged workload ca edgegateway", "EdgeGateway.ca"):
            issued = await ca.issued(csr(name, extensions=edge_ca_extensions()), holder)
            assert issued.row.identity == "EdgeGateway"
        await ca.refused(Why.NAME_NOT_GRANTED, csr("other.ca", extensions=edge_ca_extensions()), holder)

    @pytest.mark.parametrize("registered", [Registered.UNKNOWN, Registered.DEVICE, Registered.NO_REGISTRY])
    async def test_nobody_else_does(self, ca: CaWorld, registered: Registered) -> None:
        ca.registered["gw1"] = registered
        await ca.refused(Why.NOT_A_GATEWAY, csr("gw1.ca", extensions=edge_ca_extensions()), await ca.holder("gw1"))

    async def test_a_rule_can_name_gateways_without_a_registry(self, ca: CaWorld) -> None:
        ca.use(rules=(Rule(CredentialKind.IDENTITY, profiles=(EDGE_CA.name,), gateways=("gw-*",)),))
        await ca.issued(csr("gw-1.ca", extensions=edge_ca_extensions()), await ca.holder("gw-1"))
        await ca.refused(Why.NOT_A_GATEWAY, csr("x.ca", extensions=edge_ca_extensions()), await ca.holder("x"))

    async def test_an_edge_ca_issues_no_cas(self, ca: CaWorld) -> None:
        ca.registered["gw1"] = Registered.GATEWAY
        holder = await ca.holder("gw1")
        await ca.refused(Why.CA_NOT_GRANTED, csr("gw1.ca", extensions=edge_ca_extensions(1)), holder)
        await ca.refused(Why.CA_NOT_GRANTED, csr("gw1.ca", extensions=edge_ca_extensions()), holder, label="devices")

    async def test_a_disabled_device_gets_nothing(self, ca: CaWorld) -> None:
        ca.registered["dev1"] = Registered.DISABLED
        await ca.refused(Why.DISABLED, csr("dev1"), await ca.holder("dev1"))

    async def test_a_rule_can_want_the_registry(self, ca: CaWorld) -> None:
        ca.use(rules=(Rule(CredentialKind.IDENTITY, registered=True),))
        holder = await ca.holder("dev1")
        await ca.refused(Why.NOT_REGISTERED, csr("dev1"), holder)
        ca.registered["dev1"] = Registered.DEVICE
        await ca.issued(csr("dev1"), holder)


class TestBadRequests:
    async def test_not_a_request(self, ca: CaWorld) -> None:
        peer = await ca.password()
        await ca.refused(Why.NOT_A_REQUEST, b"\x30\x03\x02\x01\x00", peer)
        await ca.refused(Why.NOT_A_REQUEST, csr()[:-1], peer)

    async def test_weak_keys_and_signatures(self, ca: CaWorld) -> None:
        peer = await ca.password()
        await ca.refused(Why.WEAK_KEY, csr(kind="rsa-1024"), peer)
        odd = ec.generate_private_key(ec.SECP256K1())
        await ca.refused(Why.WEAK_KEY, csr(sign=odd), peer)
        der = bytearray(csr())
        der[-1] ^= 1
        await ca.refused(Why.BAD_SIGNATURE, bytes(der), peer)

    async def test_sha1(self, ca: CaWorld) -> None:
        from pathlib import Path

        from support.pki import openssl

        folder = Path(ca.authority.settings.data)
        openssl("req", "-new", "-sha1", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-subj", "/CN=dev1",
                "-outform", "der", "-out", "weak.der", cwd=folder)  # fmt: skip
        await ca.refused(Why.WEAK_SIGNATURE, (folder / "weak.der").read_bytes(), await ca.password())

    async def test_a_key_belongs_to_one_identity(self, ca: CaWorld) -> None:
        await ca.issued(csr("dev1", label="shared"), await ca.password("dev1"))
        await ca.refused(Why.KEY_IN_USE, csr("dev2", label="shared"), await ca.password("dev2"))
        await ca.issued(csr("dev1", label="shared"), await ca.password("dev1"))

    async def test_the_key_of_a_ca(self, ca: CaWorld) -> None:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        pem = (ca.authority.settings.data / "keys" / "edge.key.pem").read_bytes()
        stolen = load_pem_private_key(pem, None)
        await ca.refused(Why.KEY_IN_USE, csr("dev1", sign=stolen), await ca.password("dev1"))

    @pytest.mark.parametrize(
        "subject",
        [
            x509.Name([]),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.COMMON_NAME, "b")]),
        ],
    )
    async def test_no_common_name_or_two(self, ca: CaWorld, subject: x509.Name) -> None:
        await ca.refused(Why.NAME_MISSING, csr(subject=subject), await ca.password("*", "*"))

    async def test_a_name_of_several_attributes(self, ca: CaWorld) -> None:
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, "dev1"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "o")]
        subject = x509.Name([x509.RelativeDistinguishedName(parts)])
        await ca.refused(Why.NAME_MALFORMED, csr(subject=subject), await ca.password())

    @pytest.mark.parametrize("name", ["dev 1", "dev/1", "a\x01b", "dév"])
    async def test_names_that_are_no_identifiers(self, ca: CaWorld, name: str) -> None:
        await ca.refused(Why.NAME_MALFORMED, csr(name), await ca.password("*", "*"))

    async def test_foreign_names(self, ca: CaWorld) -> None:
        peer = await ca.password()
        await ca.issued(csr(extensions=[san("dev1")]), peer)
        for names in (["dev2"], ["dev1", "hub.example"], ["*.example.com"]):
            await ca.refused(Why.NAME_NOT_GRANTED, csr(extensions=[san(*names)]), peer)
        uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("https://bootstrap.edgetrust.invalid/")])
        await ca.refused(Why.NAME_NOT_GRANTED, csr(extensions=[(uri, False)]), peer)

    async def test_names_that_a_rule_covers(self, ca: CaWorld) -> None:
        rule = Rule(CredentialKind.PASSWORD, profiles=(GATEWAY_SERVER.name,), hosts=("*.plant.example",))
        ca.use(rules=(rule,))
        peer, server = await ca.password("gw1"), (EKU([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        await ca.issued(csr("gw1", extensions=[server, san("gw1.plant.example")]), peer, label="servers")
        for name in ("gw1.a.plant.example", "plant.example", "*.plant2.example"):
            await ca.refused(Why.NAME_NOT_GRANTED, csr("gw1", extensions=[server, san(name)]), peer, label="servers")
        await ca.refused(Why.NAME_MISSING, csr("gw1", extensions=[server]), peer, label="servers")

    async def test_kinds_of_names_that_no_certificate_has(self, ca: CaWorld) -> None:
        peer = await ca.password()
        mail = x509.SubjectAlternativeName([x509.RFC822Name("dev1@example.com")])
        await ca.refused(Why.NAME_MALFORMED, csr(extensions=[(mail, False)]), peer)
        await ca.refused(Why.NAME_MALFORMED, csr(extensions=[san("dev1 x")]), peer)

    async def test_ten_thousand_names(self, ca: CaWorld) -> None:
        many = san(*(f"n{number}.example" for number in range(10_000)))
        await ca.refused(Why.TOO_MANY_NAMES, csr(extensions=[many]), await ca.password())

    async def test_a_foreign_usage(self, ca: CaWorld) -> None:
        peer = await ca.password()
        signing = (EKU([ExtendedKeyUsageOID.CODE_SIGNING]), False)
        await ca.refused(Why.USAGE_NOT_GRANTED, csr(extensions=[signing]), peer)
        ocsp = (EKU([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.OCSP_SIGNING]), False)
        await ca.refused(Why.USAGE_NOT_GRANTED, csr(extensions=[ocsp]), peer)

    async def test_what_the_edge_runtime_asks_for_is_granted_in_our_form(self, ca: CaWorld) -> None:
        """A critical extended key usage with both purposes: the certificate has a plain clientAuth."""
        both = (EKU([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), True)
        issued = await ca.issued(csr(extensions=[both]), await ca.password())
        usage = issued.row.certificate.extensions.get_extension_for_class(EKU)
        assert (usage.critical, list(usage.value)) == (False, [ExtendedKeyUsageOID.CLIENT_AUTH])

    async def test_a_challenge_password_that_ties_to_nothing(self, ca: CaWorld) -> None:
        from edgetrust.pki.csr import build_csr, parse_csr
        from edgetrust.pki.names import Names
        from edgetrust.pki.softkeys import SoftKey

        finished = b"twelve bytes"
        said = base64.b64encode(finished).decode()
        pem = build_csr(SoftKey("k", key("challenge")), Names("dev1"), challenge_password=said)
        der, peer = parse_csr(pem).der, await ca.password()
        await ca.refused(Why.PROOF_MISMATCH, der, peer)  # TLS 1.3: there is nothing to tie it to
        await ca.refused(Why.PROOF_MISMATCH, der, replace(peer, binding=b"another's 12"))
        await ca.issued(der, replace(peer, binding=finished))


class TestRenewal:
    async def test_same_names_new_key(self, ca: CaWorld) -> None:
        holder = await ca.holder("dev1")
        issued = await ca.issued(csr("dev1", label="next"), holder, renewal=True)
        assert issued.row.identity == "dev1"

    async def test_printable_and_utf8_are_the_same_name(self, ca: CaWorld) -> None:
        from cryptography.x509.name import _ASN1Type

        holder = await ca.holder("dev1")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dev1", _ASN1Type.PrintableString)])
        await ca.issued(csr(subject=subject, label="next"), holder, renewal=True)

    async def test_changed_names(self, ca: CaWorld) -> None:
        holder = await ca.holder("dev1")
        await ca.refused(Why.NAMES_CHANGED, csr("dev1", extensions=[san("dev1")]), holder, renewal=True)
        organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "o")
        subject = x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, "dev1")])
        await ca.refused(Why.NAMES_CHANGED, csr(subject=subject, label="next"), holder, renewal=True)

    async def test_only_with_the_certificate(self, ca: CaWorld) -> None:
        await ca.refused(Why.CERTIFICATE_NEEDED, csr("dev1"), await ca.password("dev1"), renewal=True)
        batch = await ca.holder("batch-7", BOOTSTRAP)
        await ca.refused(Why.CERTIFICATE_NEEDED, csr("batch-7"), batch, renewal=True)


class TestGrace:
    """A certificate that has ended obtains the next one, where a rule says so, and for as long as it says."""

    RULES = (
        Rule(CredentialKind.IDENTITY, match="dev*", grace=timedelta(days=7)),
        Rule(CredentialKind.IDENTITY),
        Rule(CredentialKind.BOOTSTRAP, once=True),
        Rule(CredentialKind.PASSWORD),
    )

    async def test_within_the_grace(self, ca: CaWorld) -> None:
        ca.use(rules=self.RULES)
        holder = await ca.holder("dev1", validity=timedelta(hours=1))
        ca.clock.advance(7 * 86_400)
        issued = await ca.issued(csr("dev1", label="next"), holder, renewal=True)
        assert issued.row.not_after > ca.clock.now()
        newest = (await ca.audit())[0].entry
        assert (newest.event, newest.identity) == ("issued", "dev1")
        assert "identity:dev1, whose certificate ended: within the grace of a rule" in newest.detail
        await ca.refused(Why.CERTIFICATE_EXPIRED, csr("dev2"), holder)  # its own name only

    async def test_behind_the_grace(self, ca: CaWorld) -> None:
        ca.use(rules=self.RULES)
        holder = await ca.holder("dev1", validity=timedelta(hours=1))
        ca.clock.advance(7 * 86_400 + 3_601)
        await ca.refused(Why.CERTIFICATE_EXPIRED, csr("dev1"), holder, renewal=True)

    async def test_who_has_no_grace(self, ca: CaWorld) -> None:
        ca.use(rules=self.RULES)
        sensor = await ca.holder("sensor1", validity=timedelta(hours=1))
        batch = await ca.holder("devices-7", BOOTSTRAP, validity=timedelta(hours=1))
        gone = await ca.holder("dev1", validity=timedelta(hours=1))
        rows = await ca.rows(identity="dev1")
        await ca.authority.database.write(lambda c: mark_revoked(c, rows, ca.clock.now(), "keyCompromise"))
        password = await ca.password("sensor1")
        ca.clock.advance(3_601)
        await ca.refused(Why.CERTIFICATE_EXPIRED, csr("sensor1"), sensor)
        await ca.refused(Why.CERTIFICATE_EXPIRED, csr("sensor1"), replace(sensor, basic=password.basic))
        await ca.refused(Why.CERTIFICATE_EXPIRED, csr("devices-7"), batch)
        await ca.refused(Why.CERTIFICATE_EXPIRED, csr("dev1"), gone)

    async def test_without_a_rule_there_is_none(self, ca: CaWorld) -> None:
        holder = await ca.holder("dev1", validity=timedelta(hours=1))
        ca.clock.advance(3_601)
        await ca.refused(Why.CERTIFICATE_EXPIRED, csr("dev1"), holder, renewal=True)


class TestApproval:
    async def _world(self, ca: CaWorld) -> Peer:
        ca.use(rules=(Rule(CredentialKind.PASSWORD, approval=True),))
        return await ca.password("dev1")

    async def _decide(self, ca: CaWorld, state: str) -> None:
        (waiting,) = await ca.authority.database.read(read_requests)
        await ca.authority.database.write(
            lambda connection: decide_request(connection, waiting.id, state, ca.clock.now(), "by hand")
        )

    async def test_it_waits_until_it_is_approved(self, ca: CaWorld) -> None:
        peer = await self._world(ca)
        first, second = await ca.enroll(csr("dev1"), peer), await ca.enroll(csr("dev1"), peer)
        assert isinstance(first, Waiting)
        assert first == second
        assert await ca.rows(identity="dev1") == ()
        await self._decide(ca, "approved")
        await ca.issued(csr("dev1"), peer)
        assert isinstance(await ca.enroll(csr("dev1"), peer), Waiting), "an approval is good once"

    async def test_one_credential_makes_no_more_wait_than_a_person_looks_through(
        self, ca: CaWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgetrust.ca.enroll.EST_REQUESTS_WAITING", 2)
        peer = await self._world(ca)
        for label in ("first", "second"):
            assert isinstance(await ca.enroll(csr("dev1", label=label), peer), Waiting)
        await ca.refused(Why.TOO_MANY_WAITING, csr("dev1", label="third"), peer)
        assert isinstance(await ca.enroll(csr("dev1", label="first"), peer), Waiting), "who waits goes on waiting"
        assert isinstance(await ca.enroll(csr("dev2"), await ca.password("dev2")), Waiting), "nobody else is disturbed"
        (waiting, _) = [one for one in await ca.authority.database.read(read_requests) if one.identity == "dev1"]
        await ca.authority.database.write(lambda c: decide_request(c, waiting.id, DENIED, ca.clock.now(), "by hand"))
        assert isinstance(await ca.enroll(csr("dev1", label="third"), peer), Waiting)

    async def test_it_is_denied(self, ca: CaWorld) -> None:
        peer = await self._world(ca)
        await ca.enroll(csr("dev1"), peer)
        await self._decide(ca, DENIED)
        await ca.refused(Why.DENIED, csr("dev1"), peer)
        assert isinstance(await ca.enroll(csr("dev1", label="another key"), peer), Waiting)


class TestAuthorities:
    async def test_one_that_is_not_active_issues_nothing(self, ca: CaWorld) -> None:
        from edgetrust.store.authorities import change_authority

        peer = await ca.password("dev1")
        await ca.authority.database.write(lambda connection: change_authority(connection, "edge", state="retired"))
        await ca.authority.refresh()
        await ca.refused(Why.AUTHORITY_RETIRED, csr("dev1"), peer)
        await ca.issued(csr("dev1"), peer, label="devices")

    async def test_no_certificate_outlives_its_issuer(self, ca: CaWorld) -> None:
        peer = await ca.password("dev1")
        end = ca.authority.named("edge").row.certificate.not_valid_after_utc
        ca.clock.jump(end - timedelta(days=3))
        issued = await ca.issued(csr("dev1"), peer)
        assert issued.row.not_after == end
