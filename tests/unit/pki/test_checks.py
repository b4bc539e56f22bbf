"""The checks on a path: dates, usages and strength, each with the reason it gives."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgetrust.pki.chain import Chain
from edgetrust.pki.verify import ChainFailure, ChainReason, Purpose, VerifiedChain, verify_chain
from support import pki as wrong
from support.judging import refused, trust, verified
from support.pki import NOW, SERVER, Pki, certificate, root


class TestDates:
    def test_expired_end_entity(self) -> None:
        pki = Pki()
        failure = refused(pki.device("late", **wrong.EXPIRED).chain, pki.bundle)
        assert (failure.reason, failure.certificate) == (ChainReason.EXPIRED, "CN=late")

    def test_not_yet_valid_end_entity(self) -> None:
        pki = Pki()
        assert refused(pki.device(**wrong.NOT_YET_VALID).chain, pki.bundle).reason is ChainReason.NOT_YET_VALID

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [(wrong.EXPIRED, ChainReason.EXPIRED), (wrong.NOT_YET_VALID, ChainReason.NOT_YET_VALID)],
    )
    def test_intermediate_and_root(self, fields: dict[str, timedelta], reason: ChainReason) -> None:
        pki = Pki()
        ca = pki.authority("Faulty CA", **fields)
        failure = refused(ca.issue("d").chain, pki.bundle)
        assert (failure.reason, failure.certificate) == (reason, "CN=Faulty CA")
        top = root("Faulty Root", **fields)
        failure = refused(top.issue("d").chain, trust(top))
        assert (failure.reason, failure.certificate) == (reason, "CN=Faulty Root")

    def test_the_last_second_counts(self) -> None:
        pki = Pki()
        chain = pki.device(end=timedelta(0)).chain
        assert isinstance(verify_chain(chain, pki.bundle, Purpose.DEVICE, NOW), VerifiedChain)
        late = verify_chain(chain, pki.bundle, Purpose.DEVICE, NOW + timedelta(seconds=1))
        assert isinstance(late, ChainFailure)
        assert late.reason is ChainReason.EXPIRED

    def test_a_renewed_intermediate_beside_the_expired_one(self) -> None:
        pki = Pki(intermediates=0)
        old = pki.root.authority("Renewed", **wrong.EXPIRED)
        new = pki.root.authority("Renewed")
        device = new.issue("d")
        assert verified(Chain((device.certificate, old.certificate, new.certificate)), pki.bundle).path == device.path


class TestUsage:
    def test_server_only_is_no_device_and_the_reverse(self) -> None:
        pki = Pki()
        assert refused(pki.device(**wrong.SERVER_ONLY).chain, pki.bundle).reason is ChainReason.WRONG_USAGE
        failure = refused(pki.device(**wrong.CLIENT_ONLY).chain, pki.bundle, Purpose.SERVER)
        assert failure.reason is ChainReason.WRONG_USAGE
        assert "clientAuth" in failure.detail

    def test_any_usage_alone_is_not_enough(self) -> None:
        pki = Pki()
        chain = pki.device(eku=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)).chain
        assert refused(chain, pki.bundle).reason is ChainReason.WRONG_USAGE

    def test_key_usage_that_does_not_authenticate(self) -> None:
        pki = Pki()
        assert refused(pki.device(usage=("crl_sign",)).chain, pki.bundle).reason is ChainReason.WRONG_USAGE
        only_agrees = pki.device(usage=("key_encipherment",)).chain
        assert refused(only_agrees, pki.bundle).reason is ChainReason.WRONG_USAGE
        verified(pki.device(usage=("key_encipherment",), eku=None).chain, pki.bundle, Purpose.SERVER)

    def test_a_ca_for_servers_only_issues_no_devices(self) -> None:
        pki = Pki()
        failure = refused(pki.authority("Web CA", eku=(SERVER,)).issue("d").chain, pki.bundle)
        assert (failure.reason, failure.certificate) == (ChainReason.WRONG_USAGE, "CN=Web CA")

    def test_a_ca_that_may_not_sign(self) -> None:
        pki = Pki()
        failure = refused(pki.authority("Mute CA", usage=("crl_sign",)).issue("d").chain, pki.bundle)
        assert (failure.reason, failure.certificate) == (ChainReason.WRONG_USAGE, "CN=Mute CA")

    @pytest.mark.parametrize("purpose", [Purpose.DEVICE, Purpose.SERVER])
    def test_an_end_entity_must_not_be_a_ca(self, purpose: Purpose) -> None:
        pki = Pki()
        assert refused(pki.authority().chain, pki.bundle, purpose).reason is ChainReason.LEAF_IS_CA

    def test_a_ca_must_be_one(self) -> None:
        pki = Pki()
        assert refused(pki.device().chain, pki.bundle, Purpose.CA).reason is ChainReason.NOT_A_CA


class TestStrength:
    @pytest.mark.parametrize("kind", ["rsa-1024", "rsa-8448"])
    def test_rsa_out_of_bounds(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        pki = Pki()
        if kind == "rsa-8448":  # making such a key takes minutes: lower the bound instead
            monkeypatch.setattr("edgetrust.pki.keys.RSA_BITS", range(1024, 2000))
            kind = "rsa-2048"
        assert refused(pki.device("weak " + kind, key_kind=kind).chain, pki.bundle).reason is ChainReason.WEAK_KEY

    def test_a_ca_with_a_weak_key(self) -> None:
        pki = Pki()
        ca = pki.authority("Weak CA", key_kind="rsa-1024")
        failure = refused(ca.issue("d").chain, pki.bundle)
        assert (failure.reason, failure.certificate) == (ChainReason.WEAK_KEY, "CN=Weak CA")

    def test_an_unsupported_curve(self) -> None:
        pki = Pki()
        curve = wrong.ec.generate_private_key(wrong.ec.SECP256K1())
        made = certificate("d", curve, pki.issuing.certificate, pki.issuing.private_key)
        assert refused(Chain((made, *pki.issuing.path)), pki.bundle).reason is ChainReason.WEAK_KEY

    def test_ed25519(self) -> None:
        pki = Pki()
        odd = wrong.ed25519_key()
        made = certificate("d", odd, pki.issuing.certificate, pki.issuing.private_key)
        assert refused(Chain((made, *pki.issuing.path)), pki.bundle).reason is ChainReason.WEAK_KEY

    def test_sha224_signature(self) -> None:
        pki = Pki()
        chain = pki.device(hash_algorithm=hashes.SHA224()).chain
        assert refused(chain, pki.bundle).reason is ChainReason.WEAK_KEY
