"""Path validation: what passes, and which reason each wrong certificate gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgetrust import limits
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.diagnosis import diagnose
from edgetrust.pki.verify import ChainFailure, ChainReason, Purpose, VerifiedChain, verify_chain
from support import pki as wrong
from support.judging import refused, trust, verified
from support.pki import CLIENT, NOW, SERVER, Pki, certificate, key, openssl_verify, root, self_signed


class TestAccepted:
    @pytest.mark.parametrize("intermediates", range(6))
    @pytest.mark.parametrize("kind", ["ec", "rsa-2048"])
    def test_any_depth_and_key(self, intermediates: int, kind: str) -> None:
        pki = Pki(intermediates=intermediates, key_kind=kind)
        device = pki.device("d", key_kind=kind)
        outcome = verified(device.chain, pki.bundle)
        assert outcome.path == device.path
        assert outcome.end_entity == device.certificate
        assert outcome.anchor == pki.root.certificate
        assert outcome.valid_until == device.certificate.not_valid_after_utc
        assert outcome.valid_from == device.certificate.not_valid_before_utc

    @pytest.mark.parametrize("curve", [wrong.ec.SECP384R1(), wrong.ec.SECP521R1()])
    @pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
    def test_other_curves_and_hashes(self, curve: wrong.ec.EllipticCurve, algorithm: hashes.HashAlgorithm) -> None:
        ca_key = wrong.ec.generate_private_key(curve)
        ca = certificate("Curve CA", ca_key, None, ca_key, ca=True, usage=None, eku=None, hash_algorithm=algorithm)
        end = certificate("d", key("d"), ca, ca_key, hash_algorithm=algorithm)
        verified(Chain((end,)), TrustBundle((ca,), as_of=NOW))

    def test_root_sent_unordered_repeated_and_foreign_certificates(self) -> None:
        pki, other = Pki(intermediates=3), Pki(root_name="Other Root")
        device = pki.device()
        end, first, second, third, top = device.path
        sent = Chain((end, top, third, other.root.certificate, first, second, first))
        assert verified(sent, pki.bundle).path == device.path

    def test_an_intermediate_as_the_only_anchor(self) -> None:
        pki = Pki(intermediates=3)
        assert verified(pki.device().full_chain, trust(pki.issuers[2])).anchor == pki.issuers[2].certificate
        assert verified(Chain(pki.device().path[:1]), trust(pki.issuing)).anchor == pki.issuing.certificate

    def test_intermediates_of_the_bundle_help(self) -> None:
        pki = Pki(intermediates=2)
        bundle = pki.bundle.with_(intermediates=[holder.certificate for holder in pki.issuers[1:]])
        device = pki.device()
        assert verified(Chain((device.certificate,)), bundle).path == device.path

    def test_the_shape_of_demo_scripts(self) -> None:
        """CAs without path length, AKI with issuer and serial, RSA 4096, non-critical CA:FALSE, emailProtection."""
        fields = {"issuer_serial": True, "usage": ("digital_signature", "crl_sign", "key_cert_sign")}
        top = root(key_kind="rsa-4096", **fields)
        ca = top.authority("Azure_IoT_Hub_Intermediate_Cert_Test_Only", key_kind="rsa-4096", **fields)
        device = ca.issue(
            "d",
            key_kind="rsa-2048",
            issuer_serial=True,
            ca_critical=False,
            usage=("content_commitment", "digital_signature", "key_encipherment"),
            eku=(CLIENT, ExtendedKeyUsageOID.EMAIL_PROTECTION),
            extra=((x509.UnrecognizedExtension(x509.ObjectIdentifier("2.16.840.1.113730.1.1"), b"\3\2\7\x80"), False),),
        )
        assert verified(device.full_chain, trust(top)).path == device.path

    def test_the_shape_of_the_local_ca(self) -> None:
        """Only EKU, SKI and AKI."""
        pki = Pki()
        verified(pki.device(ca=None, usage=None).chain, pki.bundle)
        verified(pki.server("gw", ca=None, usage=None).chain, pki.bundle, Purpose.SERVER, name="gw")

    @pytest.mark.parametrize("purpose", [Purpose.DEVICE, Purpose.SERVER])
    def test_no_extensions_restrict_nothing(self, purpose: Purpose) -> None:
        pki = Pki()
        verified(pki.device(**wrong.WITHOUT_EXTENSIONS, key_ids=False).chain, pki.bundle, purpose)

    def test_critical_eku_and_old_cas_without_key_usage(self) -> None:
        top = root(usage=None, ca_critical=False, key_ids=False)
        ca = top.authority("ca", usage=None, ca_critical=False, key_ids=False)
        verified(ca.issue("d", eku_critical=True, usage=None).chain, trust(top))

    def test_a_ca_for_its_own_sake(self) -> None:
        pki = Pki()
        edge_ca = pki.authority(path_length=0)
        assert verified(edge_ca.chain, pki.bundle, Purpose.CA).path == edge_ca.path
        assert verified(pki.root.chain, pki.bundle, Purpose.CA).path == pki.root.path

    def test_a_server_certificate_that_is_its_own_anchor(self) -> None:
        server = self_signed("gw", hosts=("gw",), eku=(SERVER,))
        assert verified(server.chain, trust(server), Purpose.SERVER, name="gw").path == (server.certificate,)

    def test_cross_signed_roots_one_of_them_unfit(self) -> None:
        """Two certificates of one CA: the one for another purpose comes first and must not hide the good one."""
        pki = Pki(intermediates=0)
        good = pki.root.authority("Cross")
        bad = pki.root.authority("Cross", eku=(SERVER,))
        device = good.issue("d")
        sent = Chain((device.certificate, bad.certificate, good.certificate))
        assert verified(sent, pki.bundle).path == device.path
        assert verified(Chain((device.certificate, good.certificate, bad.certificate)), pki.bundle).path == device.path

    def test_name_constraints_that_permit(self) -> None:
        top = root()
        permitted = x509.NameConstraints([x509.DNSName("site.example")], None)
        ca = top.authority("Constrained", extra=((permitted, True),))
        verified(ca.issue("d").chain, trust(top))
        server = ca.issue("gw", eku=(SERVER,), hosts=("gw.site.example",))
        verified(server.chain, trust(top), Purpose.SERVER, name="gw.site.example")


class TestPath:
    def test_an_issuer_that_is_not_a_ca(self) -> None:
        pki = Pki()
        for fields in (wrong.NOT_A_CA, {"ca": None}):
            failure = refused(pki.device("Not a CA", **fields).issue("d").chain, pki.bundle)
            assert (failure.reason, failure.certificate) == (ChainReason.NOT_A_CA, "CN=Not a CA")

    def test_a_self_signed_device_in_the_bundle_mints_nothing(self) -> None:
        device = self_signed("device", **wrong.WITHOUT_EXTENSIONS)
        assert refused(device.issue("other").full_chain, trust(device)).reason is ChainReason.NOT_A_CA
        failure = refused(device.chain, trust(device))
        assert failure.reason is ChainReason.UNTRUSTED
        assert "thumbprint" in failure.detail

    def test_path_length(self) -> None:
        top = root()
        ca = top.authority("Short CA", path_length=0)
        failure = refused(ca.authority("Below").issue("d").chain, trust(top))
        assert (failure.reason, failure.certificate) == (ChainReason.PATH_LENGTH, "CN=Short CA")
        verified(ca.issue("d").chain, trust(top))

    def test_self_issued_cas_use_path_length_too(self) -> None:
        top = root()
        again = top.authority("Rollover", path_length=0).authority("Rollover", key_label="Rollover 2")
        assert refused(again.issue("d").chain, trust(top)).reason is ChainReason.PATH_LENGTH

    def test_path_length_of_the_root(self) -> None:
        top = root(path_length=0)
        assert refused(top.authority("Below").issue("d").chain, trust(top)).reason is ChainReason.PATH_LENGTH

    def test_a_ca_below_path_length_0_would_issue_in_vain(self) -> None:
        top = root()
        ca = top.authority("Short CA", path_length=0)
        assert refused(ca.authority("Below").chain, trust(top), Purpose.CA).reason is ChainReason.PATH_LENGTH

    def test_a_missing_intermediate_is_named_by_who_needs_it(self) -> None:
        pki = Pki(intermediates=2)
        end, first, _, _ = pki.device("d").path
        failure = refused(Chain((end,)), pki.bundle)
        assert (failure.reason, failure.certificate) == (ChainReason.INTERMEDIATE_MISSING, "CN=d")
        assert "Test Intermediate 2" in failure.detail
        failure = refused(Chain((end, first)), pki.bundle)
        assert failure.certificate == "CN=Test Intermediate 2"

    def test_another_root(self) -> None:
        pki, other = Pki(), Pki(root_name="Other Root")
        failure = refused(pki.device().full_chain, other.bundle)
        assert (failure.reason, failure.certificate) == (ChainReason.UNTRUSTED, "CN=Test Root")

    def test_self_signed(self) -> None:
        assert refused(self_signed("d").chain, Pki().bundle).reason is ChainReason.UNTRUSTED

    def test_an_empty_bundle(self) -> None:
        pki = Pki()
        empty = TrustBundle((), as_of=NOW)
        assert refused(pki.device().full_chain, empty).reason is ChainReason.UNTRUSTED
        assert refused(pki.device().chain, empty).reason is ChainReason.INTERMEDIATE_MISSING

    def test_same_names_other_keys(self) -> None:
        pki = Pki()
        impostor = pki.impostor()
        assert refused(impostor.device().chain, pki.bundle).reason is ChainReason.SIGNATURE
        assert refused(impostor.device().full_chain, pki.bundle).reason is ChainReason.UNTRUSTED

    def test_a_broken_signature(self) -> None:
        pki = Pki()
        der = bytearray(pki.device("d").certificate.public_bytes(wrong.Encoding.DER))
        der[-1] ^= 1
        broken = Chain.from_der([bytes(der), pki.issuing.certificate.public_bytes(wrong.Encoding.DER)])
        failure = refused(broken, pki.bundle)
        assert (failure.reason, failure.certificate) == (ChainReason.SIGNATURE, "CN=d")

    @pytest.mark.parametrize("level", ["end entity", "ca", "root"])
    def test_unknown_critical_extension(self, level: str) -> None:
        fields = {where: wrong.UNKNOWN_CRITICAL if where == level else {} for where in ("end entity", "ca", "root")}
        top = root(**fields["root"])
        device = top.authority("ca", **fields["ca"]).issue("d", **fields["end entity"])
        assert refused(device.chain, trust(top)).reason is ChainReason.UNKNOWN_CRITICAL

    def test_name_constraints_that_exclude(self) -> None:
        top = root()
        permitted = x509.NameConstraints([x509.DNSName("site.example")], None)
        ca = top.authority("Constrained", extra=((permitted, True),))
        server = ca.issue("gw", eku=(SERVER,), hosts=("gw.other.example",))
        failure = refused(server.chain, trust(top), Purpose.SERVER)
        assert (failure.reason, failure.certificate) == (ChainReason.NAME_CONSTRAINTS, "CN=Constrained")

    def test_name_constraints_that_nobody_here_processes(self) -> None:
        top = root()
        permitted = x509.NameConstraints([x509.DirectoryName(wrong.name("x"))], None)
        ca = top.authority("Constrained", extra=((permitted, True),))
        assert refused(ca.issue("d").chain, trust(top)).reason is ChainReason.NAME_CONSTRAINTS


class TestBounds:
    def test_too_many_certificates(self) -> None:
        pki = Pki()
        many = Chain((*pki.device().path, *[pki.root.certificate] * limits.PEER_CHAIN_CERTIFICATES))
        assert refused(many, pki.bundle).reason is ChainReason.TOO_LONG

    def test_too_deep(self) -> None:
        deep = Pki(intermediates=limits.CHAIN_INTERMEDIATES + 1)
        assert refused(deep.device().chain, deep.bundle).reason is ChainReason.TOO_LONG
        fitting = Pki(intermediates=limits.CHAIN_INTERMEDIATES)
        verified(fitting.device().chain, fitting.bundle)

    def test_certificates_that_all_issue_each_other(self) -> None:
        """A peer's maze: every certificate could have issued every other. Must end quickly."""
        tangle = [root("Maze", serial=number).certificate for number in range(1, 11)]
        device = certificate("d", key("d"), tangle[0], key("Maze"))
        assert refused(Chain((device, *tangle)), Pki().bundle).reason in {ChainReason.UNTRUSTED, ChainReason.TOO_LONG}

    def test_a_chain_of_unfit_certificates_of_one_ca(self) -> None:
        """After a few of them the first failure stands, though a fit one may come later."""
        pki = Pki(intermediates=0)
        unfit = [pki.root.authority("Cross", eku=(SERVER,), serial=2**70 + number) for number in range(6)]
        sent = Chain((unfit[0].issue("d").certificate, *(holder.certificate for holder in unfit)))
        failure = refused(sent, pki.bundle)
        assert (failure.reason, failure.certificate) == (ChainReason.WRONG_USAGE, "CN=Cross")

    def test_the_path_builder_gives_up(self) -> None:
        pki = Pki()
        failure = diagnose(pki.device("d").chain, pki.bundle, Purpose.DEVICE, NOW, "out of breath")
        assert failure == ChainFailure(ChainReason.UNTRUSTED, "CN=d", "out of breath")


class TestNames:
    @pytest.mark.parametrize(
        ("hosts", "asked"),
        [
            (("gw.local",), "gw.local"),
            (("gw.local",), "GW.LOCAL."),
            (("GW.local", "edgeHub"), "edgehub"),
            (("*.hub.example",), "eu.hub.example"),
            (("192.0.2.7",), "192.0.2.7"),
            (("2001:db8::1",), "2001:0db8:0:0:0:0:0:1"),
        ],
    )
    def test_covered(self, hosts: tuple[str, ...], asked: str) -> None:
        pki = Pki()
        verified(pki.server(*hosts).chain, pki.bundle, Purpose.SERVER, name=asked)

    @pytest.mark.parametrize(
        ("hosts", "asked"),
        [
            (("gw.local",), "other.local"),
            (("*.hub.example",), "hub.example"),
            (("*.hub.example",), "a.b.hub.example"),
            (("*.example",), "hub.example"),
            (("f*.hub.example",), "foo.hub.example"),
            (("192.0.2.7",), "192.0.2.8"),
            (("gw.local",), "192.0.2.7"),
            (("gw.local",), ""),
            (("*.hub.example",), "*.hub.example"),
            (("gw.local",), "gẃ.local"),
        ],
    )
    def test_not_covered(self, hosts: tuple[str, ...], asked: str) -> None:
        pki = Pki()
        failure = refused(pki.server(*hosts).chain, pki.bundle, Purpose.SERVER, name=asked)
        assert failure.reason is ChainReason.NAME

    def test_the_common_name_never_counts(self) -> None:
        pki = Pki()
        without = pki.server("gw.local", hosts=()).chain
        failure = refused(without, pki.bundle, Purpose.SERVER, name="gw.local")
        assert failure.reason is ChainReason.NAME
        assert "no subject alternative name" in failure.detail
        other = pki.server("gw.local", hosts=("other.example",)).chain
        assert refused(other, pki.bundle, Purpose.SERVER, name="gw.local").reason is ChainReason.NAME

    def test_an_address_in_a_dns_name_does_not_count(self) -> None:
        pki = Pki()
        misplaced = x509.SubjectAlternativeName([x509.DNSName("192.0.2.7")])
        chain = pki.server("gw", hosts=(), extra=((misplaced, False),)).chain
        assert refused(chain, pki.bundle, Purpose.SERVER, name="192.0.2.7").reason is ChainReason.NAME


class TestTotality:
    def test_outcomes_have_no_truth_value(self) -> None:
        pki = Pki()
        for outcome in (verified(pki.device().chain, pki.bundle), refused(self_signed("d").chain, pki.bundle)):
            with pytest.raises(TypeError):
                bool(outcome)

    def test_only_verify_makes_verified_chains(self) -> None:
        with pytest.raises(TypeError):
            VerifiedChain((), Purpose.DEVICE, NOW, NOW)

    @pytest.mark.parametrize(
        "payload",
        [b"\x30\x03\x02\x01", b"", b"\xff" * 40, b"\x30\x06\x82\x01a\xa3\x01\x00", b"\x30\x04\x86\x02\xff\xfe"],
    )
    @pytest.mark.parametrize("oid", ["2.5.29.17", "2.5.29.15", "2.5.29.19", "2.5.29.37", "2.5.29.30", "2.5.29.14"])
    @pytest.mark.parametrize("critical", [True, False])
    def test_extensions_that_cannot_be_decoded(self, oid: str, payload: bytes, critical: bool) -> None:
        pki = Pki()
        junk = ((x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), payload), critical),)
        bare = {**wrong.WITHOUT_EXTENSIONS, "key_ids": False}
        end = pki.issuing.issue("d", **bare, extra=junk)
        assert isinstance(verify_chain(end.chain, pki.bundle, Purpose.DEVICE, NOW), ChainFailure | VerifiedChain)
        ca = pki.issuing.issue("odd ca", **bare, extra=junk)
        assert isinstance(verify_chain(ca.issue("d").chain, pki.bundle, Purpose.DEVICE, NOW), ChainFailure)

    def test_serial_number_0(self) -> None:
        """The certificate service of real gateways never sets one."""
        pki = Pki()
        der = pki.device("zero", serial=1).certificate.public_bytes(wrong.Encoding.DER)
        zero = wrong.resigned(der.replace(b"\x02\x01\x01\x30", b"\x02\x01\x00\x30", 1), pki.issuing)
        chain = Chain.from_der([zero, *(c.public_bytes(wrong.Encoding.DER) for c in pki.issuing.path)])
        verified(chain, pki.bundle)


class TestAgainstOpenssl:
    """The same certificates, judged by openssl."""

    CASES = (
        ("good", {}, {}),
        ("expired", {}, wrong.EXPIRED),
        ("early", {}, wrong.NOT_YET_VALID),
        ("server-only", {}, wrong.SERVER_ONLY),
        ("any-usage", {}, {"eku": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}),
        ("no-extensions", {}, wrong.WITHOUT_EXTENSIONS),
        ("unknown-critical", {}, wrong.UNKNOWN_CRITICAL),
        ("mute", {}, {"usage": ("crl_sign",)}),
        ("ca-not-a-ca", wrong.NOT_A_CA, {}),
        ("ca-expired", wrong.EXPIRED, {}),
        ("ca-server-only", {"eku": (SERVER,)}, {}),
        ("ca-mute", {"usage": ("crl_sign",)}, {}),
        ("ca-path-length", {"path_length": 0}, {}),
        ("ca-unknown-critical", wrong.UNKNOWN_CRITICAL, {}),
    )

    @pytest.mark.parametrize(("ca", "device"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
    def test_agrees(self, ca: dict[str, object], device: dict[str, object], tmp_path: Path) -> None:
        pki = Pki()
        chain = pki.authority("CA under test", **ca).issue("d", **device).chain
        theirs = openssl_verify(tmp_path, chain, pki.bundle.anchors, NOW, "-purpose", "sslclient")
        ours = verify_chain(chain, pki.bundle, Purpose.DEVICE, NOW)
        assert isinstance(ours, VerifiedChain) == (theirs.returncode == 0), (ours, theirs.stdout, theirs.stderr)
