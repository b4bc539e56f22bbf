"""Device identity, Edge CA and server certificate of a gateway, on disk and in time."""

from __future__ import annotations

import hmac
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgetrust.clock import ManualClock
from edgetrust.edge.certd import EdgeCaError, GatewayCertificates
from edgetrust.edge.credentials import DeviceCertificate, DeviceKey
from edgetrust.edge.edgeca import EdgeCaFiles, QuickstartCa
from edgetrust.edge.files import DEVICE_ID, EDGE_CA, Layout
from edgetrust.edge.keyd import ensure_secret, module_key, open_keys
from edgetrust.edge.pairs import CertificateStore, read_chain
from edgetrust.edge.reaching import UpstreamAddress
from edgetrust.edge.settings import Listen, Settings
from edgetrust.errors import ConfigError
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import KeyAlgorithm, SecretBytes
from edgetrust.pki.renewal import AutoRenew, Period
from support.pki import EXPIRED, NOT_A_CA, NOT_YET_VALID, NOW, Holder, Pki, openssl_verify, self_signed

TEMPORARY = f"{EDGE_CA}-temp"


class Bench:
    """A gateway's certificates below a root, with settings that a test changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(NOW)
        self.pki = Pki(intermediates=2)
        self.layout = Layout(folder / "root")
        self.layout.make()
        self.keys = open_keys(self.layout)
        self.settings = Settings(
            source=folder / "config.toml",
            hostname="edgegateway.local",
            hub="hub.example",
            device="EdgeGateway",
            credential=DeviceKey(SecretBytes(b"k" * 32)),
            edge_ca=QuickstartCa(90, None, AutoRenew()),
            trust_bundle=None,
            listen=Listen("127.0.0.1", 0, 0),
            upstream=UpstreamAddress("hub.example", "127.0.0.1", 1, 1, None),
            hub_verified_anchors=True,
            thumbprint_needs_common_name=False,
            keep_dollar_in_certificate_ids=True,
            server_key=KeyAlgorithm.P256,
            prefer_backup=False,
            retries=1,
        )

    def files(self, name: str, holder: Holder, *, root: bool = True) -> tuple[Path, Path]:
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_text((holder.full_chain if root else holder.chain).pem())
        key.write_bytes(holder.key_pem())
        return certificate, key

    def edge_ca(self, **fields: object) -> Holder:
        return self.pki.issuing.authority("the edge ca", **{"now": NOW, "path_length": 0, **fields})

    def with_files(self, holder: Holder) -> Bench:
        self.settings = replace(self.settings, edge_ca=EdgeCaFiles(*self.files("ca", holder)))
        return self

    def with_identity(self, holder: Holder) -> Bench:
        self.settings = replace(self.settings, credential=DeviceCertificate(*self.files("id", holder, root=False)))
        return self

    def open(self) -> GatewayCertificates:
        made = GatewayCertificates(self.layout, self.keys, self.settings, self.clock)
        made.prepare()
        return made


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def refused(bench: Bench) -> EdgeCaError | ConfigError:
    with pytest.raises((EdgeCaError, ConfigError)) as caught:
        bench.open()
    assert caught.value.exit_code in (1, 2)
    return caught.value


# Keys ---------------------------------------------------------------------------------------------------------------


def test_a_module_key_is_the_hmac_of_its_name_generation_and_slot(bench: Bench) -> None:

    master = ensure_secret(bench.keys, "aziot_identityd_master_id")
    assert ensure_secret(bench.keys, "aziot_identityd_master_id") == master
    assert len(master) == 32
    derived = module_key(bench.keys, "$edgeHub", "638", "primary")
    assert derived.reveal() == hmac.digest(master.reveal(), b"$edgeHub:638:primary", "sha256")


# The store ----------------------------------------------------------------------------------------------------------


def test_the_store_keeps_chains_and_writes_only_changes(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path)
    chain = Pki().device().chain
    assert store.load("a/b") is None
    store.save("a/b", chain)
    path = store.path("a/b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert store.load("a/b") == chain
    before = path.stat().st_ino
    store.save("a/b", chain)
    assert path.stat().st_ino == before
    store.delete("a/b")
    store.delete("a/b")
    assert store.load("a/b") is None


def test_a_file_without_certificates(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("nothing")
    with pytest.raises(ConfigError, match="x: "):
        read_chain(tmp_path / "x")


# The device's identity ----------------------------------------------------------------------------------------------


def test_the_identity_is_copied_and_replaced_files_are_taken_up(bench: Bench) -> None:
    first = self_signed("EdgeGateway")
    certificates = bench.with_identity(first).open()
    assert certificates.store.load(DEVICE_ID) == first.chain
    assert bench.keys.load(DEVICE_ID).public_key() == first.private_key.public_key()
    assert not certificates.refresh_device_identity()
    second = self_signed("EdgeGateway", key_kind="rsa-2048")
    bench.files("id", second, root=False)
    assert certificates.refresh_device_identity()
    assert certificates.store.load(DEVICE_ID) == second.chain == certificates.device_identity
    assert bench.keys.load(DEVICE_ID).public_key() == second.private_key.public_key()


def test_an_identity_with_another_key_is_refused(bench: Bench) -> None:
    bench.with_identity(self_signed("EdgeGateway"))
    (bench.folder / "id.key").write_bytes(self_signed("other", key_kind="rsa-2048").key_pem())
    error = refused(bench)
    assert "does not belong to the certificate" in error.message
    assert error.fix.startswith("compare: openssl")


def test_an_expired_identity_is_the_hubs_business(bench: Bench) -> None:
    assert bench.with_identity(self_signed("EdgeGateway", **EXPIRED)).open().device_identity is not None


def test_a_device_with_a_key_has_no_certificate(bench: Bench) -> None:
    certificates = bench.open()
    assert certificates.device_identity is None
    assert not certificates.refresh_device_identity()


# An Edge CA from files ----------------------------------------------------------------------------------------------


def test_an_edge_ca_from_files_issues_the_server_certificate(bench: Bench, tmp_path: Path) -> None:
    certificates = bench.with_files(bench.edge_ca()).open()
    server = certificates.issue_server("638", certificates.new_server_key())
    assert server.certificate_id == "aziot-edged/module/$edgeHub:638:server"
    leaf, *above = server.chain.certificates
    assert tuple(above) == bench.edge_ca().path or len(above) == 4
    assert certificates.store.load(server.certificate_id) == server.chain
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["edgegateway.local", "edgeHub"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert (list(usage.value), usage.critical) == ([ExtendedKeyUsageOID.SERVER_AUTH], False)
    assert leaf.not_valid_after_utc == NOW + timedelta(days=30)
    done = openssl_verify(
        tmp_path,
        server.chain,
        [bench.pki.root.certificate],
        NOW,
        *("-x509_strict", "-purpose", "sslserver", "-verify_hostname", "edgegateway.local"),
    )
    assert done.returncode == 0, done.stderr


def test_an_address_becomes_an_ip_name(bench: Bench) -> None:
    bench.settings = replace(bench.settings, hostname="192.168.1.23", keep_dollar_in_certificate_ids=False)
    certificates = bench.open()
    server = certificates.issue_server("638", certificates.new_server_key())
    names = server.chain.end_entity.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.168.1.23"]
    assert names.get_values_for_type(x509.DNSName) == ["edgeHub"]
    assert server.certificate_id == "aziot-edged/module/edgeHub:638:server"


def test_the_server_certificate_never_outlives_the_edge_ca(bench: Bench) -> None:
    certificates = bench.with_files(bench.edge_ca(end=timedelta(days=3))).open()
    server = certificates.issue_server("638", certificates.new_server_key())
    assert server.chain.end_entity.not_valid_after_utc == NOW + timedelta(days=3)
    bench.clock.advance(2.9 * 86_400)
    assert not certificates.server_is_due(server), "a new one would not live longer"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (EXPIRED, "edge-ca-expired"),
        (NOT_YET_VALID, "edge-ca-not-yet-valid"),
        (NOT_A_CA, "edge-ca-not-a-ca"),
        ({"usage": ("digital_signature",)}, "edge-ca-"),
    ],
)
def test_an_edge_ca_that_cannot_issue_is_refused(bench: Bench, fields: dict[str, object], reason: str) -> None:
    error = refused(bench.with_files(bench.edge_ca(**fields)))
    assert error.reason.startswith(reason)
    assert error.fix
    assert error.exit_code == 1


@pytest.mark.parametrize(("name", "what"), [("edgegateway.local", "hostname"), ("EdgeGateway", "device id")])
def test_an_edge_ca_named_like_the_gateway_is_refused(bench: Bench, name: str, what: str) -> None:
    named = bench.pki.issuing.authority(name, now=NOW, path_length=0)
    assert what in refused(bench.with_files(named)).message
    bench.settings = replace(bench.settings, edge_ca=QuickstartCa(90, name, AutoRenew()))
    assert what in refused(bench).message


def test_an_edge_ca_with_another_key_or_no_file(bench: Bench) -> None:
    bench.with_files(bench.edge_ca())
    (bench.folder / "ca.key").write_bytes(self_signed("x", key_kind="rsa-2048").key_pem())
    assert refused(bench).reason == "key-certificate-mismatch"
    (bench.folder / "ca.key").write_text("no key")
    assert refused(bench).reason == "key-not-a-key"
    (bench.folder / "ca.key").unlink()
    assert refused(bench).reason == "key-missing"
    (bench.folder / "ca.pem").unlink()
    assert "does not exist" in refused(bench).message


def test_a_file_whose_parents_do_not_fit_is_used_with_a_warning(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = bench.edge_ca()
    certificate, key = bench.files("ca", ca)
    certificate.write_text(Chain((ca.certificate, Pki(root_name="Unrelated").root.certificate)).pem())
    bench.settings = replace(bench.settings, edge_ca=EdgeCaFiles(certificate, key))
    assert bench.open().issuer.certificate == ca.certificate
    assert "edge_ca.chain" in capsys.readouterr().out


def test_replaced_edge_ca_files_are_taken_up_and_bad_ones_are_not(bench: Bench) -> None:
    certificates = bench.with_files(bench.edge_ca()).open()
    server = certificates.issue_server("638", certificates.new_server_key())
    assert not certificates.refresh_edge_ca()
    assert not certificates.server_is_due(server)
    bench.with_files(bench.edge_ca(**EXPIRED))
    with pytest.raises(EdgeCaError):
        certificates.refresh_edge_ca()
    assert certificates.store.load(EDGE_CA) == Chain(certificates.issuer.chain.certificates)
    new = bench.pki.issuing.authority("the new edge ca", now=NOW, path_length=0)
    bench.with_files(new)
    assert certificates.refresh_edge_ca()
    assert certificates.server_is_due(server)
    assert certificates.issue_server("638", certificates.new_server_key()).chain.certificates[1] == new.certificate
    assert new.certificate in certificates.trust_bundle.anchors


def test_a_replaced_trust_bundle_is_taken_up_and_a_bad_one_is_not(bench: Bench) -> None:
    user = bench.folder / "user.pem"
    user.write_text(bench.pki.root.chain.pem())
    bench.settings = replace(bench.settings, trust_bundle=user)
    certificates = bench.open()
    assert not certificates.refresh_trust_bundle()
    user.write_text("half a fi")
    with pytest.raises(ConfigError):
        certificates.refresh_trust_bundle()
    assert bench.pki.root.certificate in certificates.trust_bundle.anchors
    other = Pki(root_name="New Root").root
    user.write_text(bench.pki.root.chain.pem() + other.chain.pem())
    assert certificates.refresh_trust_bundle()
    assert {bench.pki.root.certificate, other.certificate} <= set(certificates.trust_bundle.anchors)
    assert not certificates.refresh_trust_bundle()


def test_the_trust_bundle_is_the_edge_ca_file_and_the_users(bench: Bench) -> None:
    user = bench.folder / "user.pem"
    user.write_text(Pki(root_name="Another").root.chain.pem())
    bench.settings = replace(bench.settings, trust_bundle=user)
    bundle = bench.with_files(bench.edge_ca()).open().trust_bundle
    assert [one.subject.rfc4514_string() for one in bundle.anchors] == [
        "CN=the edge ca",
        "CN=Test Intermediate 2",
        "CN=Test Intermediate 1",
        "CN=Test Root",
        "CN=Another",
    ]


# Quickstart ---------------------------------------------------------------------------------------------------------


def test_quickstart_signs_itself_and_is_used_again(bench: Bench) -> None:
    first = bench.open().issuer.certificate
    assert first.subject == first.issuer
    assert first.subject.rfc4514_string() == "CN=aziot-edge CA EdgeGateway"
    assert first.not_valid_after_utc == NOW + timedelta(days=90)
    assert first.public_key().key_size == 2048  # type: ignore[union-attr]
    bench.clock.advance(86_400)
    assert bench.open().issuer.certificate == first


def test_quickstart_is_renewed_at_eighty_percent_with_another_key_and_the_same_name(bench: Bench) -> None:
    bench.settings = replace(bench.settings, edge_ca=QuickstartCa(10, "mine", AutoRenew(threshold=Period(percent=80))))
    certificates = bench.open()
    first = certificates.issuer.certificate
    server = certificates.issue_server("638", certificates.new_server_key())
    assert not certificates.refresh_edge_ca()
    bench.clock.advance(8.1 * 86_400)
    assert certificates.refresh_edge_ca()
    second = certificates.issuer.certificate
    assert second.subject == first.subject
    assert second.public_key() != first.public_key()
    assert certificates.server_is_due(server)
    assert certificates.store.load(EDGE_CA) == certificates.issuer.chain
    assert not bench.keys.exists(TEMPORARY)
    bench.clock.advance(8.1 * 86_400)
    assert bench.open().issuer.certificate not in (first, second), "also at a start"


def test_quickstart_takes_the_place_of_a_ca_from_files(bench: Bench) -> None:
    bench.with_files(bench.edge_ca()).open()
    bench.settings = replace(bench.settings, edge_ca=QuickstartCa(90, None, AutoRenew()))
    certificate = bench.open().issuer.certificate
    assert certificate.subject == certificate.issuer


def test_quickstart_without_its_key_is_an_error(bench: Bench) -> None:
    bench.open()
    bench.keys.delete(EDGE_CA)
    assert refused(bench).reason == "edge-ca-key-missing"
    bench.keys.create(EDGE_CA, KeyAlgorithm.P256)
    assert refused(bench).reason == "key-certificate-mismatch"


def test_an_expired_edge_ca_issues_nothing(bench: Bench) -> None:
    certificates = bench.with_files(bench.edge_ca(end=timedelta(days=1))).open()
    bench.clock.advance(2 * 86_400)
    with pytest.raises(EdgeCaError) as caught:
        certificates.issue_server("638", certificates.new_server_key())
    assert caught.value.reason == "edge-ca-expired"


class PowerCutError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("step", ["create", "save-temporary", "move", "save", "delete"])
def test_a_renewal_that_is_cut_off_leaves_a_pair_that_fits(
    bench: Bench, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = bench.open()
    bench.clock.advance(80 * 86_400)
    keys, store = bench.keys, certificates.store

    def cut(*_: object) -> None:
        raise PowerCutError

    def save(identifier: str, chain: Chain) -> None:
        if (identifier == TEMPORARY) is (step == "save-temporary"):
            raise PowerCutError
        CertificateStore.save(store, identifier, chain)

    with monkeypatch.context() as patched:
        if step in ("create", "move"):
            patched.setattr(keys, step, cut)
        elif step == "delete":
            patched.setattr(store, "delete", cut)
        else:
            patched.setattr(store, "save", save)
        with pytest.raises(PowerCutError):
            certificates.refresh_edge_ca()
    again = bench.open()
    assert again.store.load(EDGE_CA) == again.issuer.chain
    assert bench.keys.load(EDGE_CA).public_key() == again.issuer.certificate.public_key()
    assert not bench.keys.exists(TEMPORARY)
    assert again.store.load(TEMPORARY) is None


# A clock that is a year off -------------------------------------------------------------------------------------------

YEAR = timedelta(days=365)


@pytest.mark.parametrize("quickstart", [True, False])
def test_a_clock_a_year_behind_replaces_nothing_and_serves_nobody_wrongly(bench: Bench, quickstart: bool) -> None:
    """What is not valid yet is kept as it is: a machine whose clock has lost its battery begins long ago."""
    certificates = (bench if quickstart else bench.with_files(bench.edge_ca())).open()
    before = certificates.store.text(EDGE_CA)
    server = certificates.issue_server("638", certificates.new_server_key())
    bench.clock.jump(NOW - YEAR)
    assert not certificates.refresh_edge_ca()
    assert not certificates.server_is_due(server)
    with pytest.raises(EdgeCaError) as caught:
        certificates.issue_server("638", certificates.new_server_key())
    assert caught.value.reason == "edge-ca-not-yet-valid"
    assert certificates.store.text(EDGE_CA) == before
    bench.clock.jump(NOW)
    again = bench.open()
    assert again.store.text(EDGE_CA) == before
    assert again.issue_server("638", again.new_server_key()).chain.certificates[1] == certificates.issuer.certificate


def test_a_clock_a_year_ahead_renews_a_quickstart_ca_once_and_is_said_when_it_is_right_again(bench: Bench) -> None:
    certificates = bench.open()
    first = certificates.issuer.certificate
    bench.clock.jump(NOW + YEAR)
    assert certificates.refresh_edge_ca()
    ahead = certificates.issuer.certificate
    assert ahead != first
    assert not certificates.refresh_edge_ca()
    bench.clock.jump(NOW)
    assert not certificates.refresh_edge_ca()  # not valid yet is no reason to throw it away
    with pytest.raises(EdgeCaError) as caught:
        certificates.issue_server("638", certificates.new_server_key())
    assert (caught.value.reason, "clock" in caught.value.fix) == ("edge-ca-not-yet-valid", True)
    bench.clock.jump(NOW + YEAR + timedelta(days=1))
    assert certificates.issue_server("638", certificates.new_server_key()).chain.certificates[1] == ahead
