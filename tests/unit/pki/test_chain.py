"""Thumbprints, chains and bundles: forms and orders, compared with what openssl prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust import limits
from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.pki.chain import (
    Chain,
    ChainError,
    Thumbprint,
    ThumbprintError,
    TrustBundle,
    key_matches,
    load_system_bundle,
)
from edgetrust.pki.softkeys import SoftKey
from support.pki import NOW, Pki, openssl, resigned, root


class TestThumbprint:
    @pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
    def test_prints_as_openssl_does(self, algorithm: str, tmp_path: Path) -> None:
        chain = Pki().device().chain
        (tmp_path / "c.pem").write_text(chain.pem())
        printed = openssl("x509", "-noout", "-fingerprint", f"-{algorithm}", "-in", str(tmp_path / "c.pem")).stdout
        ours = Thumbprint.of(chain.end_entity, algorithm)  # type: ignore[arg-type]
        assert printed.strip().partition("=")[2] == ours.openssl() == str(ours)
        assert Thumbprint.parse(printed.strip().partition("=")[2]) == ours
        assert ours.hex() == ours.openssl().replace(":", "")

    @pytest.mark.parametrize("text", ["aa" * 20, "AA:" * 19 + "aa", "aa-" * 19 + "AA", " aa" * 20, "Aa" * 20])
    def test_spellings(self, text: str) -> None:
        assert Thumbprint.parse(text) == Thumbprint("sha1", b"\xaa" * 20)

    @pytest.mark.parametrize(
        "text", ["", "aa" * 19, "aa" * 21, "gg" * 20, "aa" * 33, "٣" * 40, "aa\n" * 20, "a" * 9999]
    )
    def test_not_thumbprints(self, text: str) -> None:
        with pytest.raises(ThumbprintError) as caught:
            Thumbprint.parse(text)
        assert caught.value.reason == "thumbprint-malformed"

    def test_algorithms_never_meet(self) -> None:
        certificate = Pki().root.certificate
        short, long = Thumbprint.of(certificate, "sha1"), Thumbprint.of(certificate)
        assert short != long
        assert Thumbprint.of(certificate.public_bytes(Encoding.DER)) == long
        with pytest.raises(ThumbprintError):
            Thumbprint("sha1", long.digest)
        with pytest.raises(ThumbprintError):
            Thumbprint("sha256", b"short")


class TestChain:
    def test_pem_keeps_the_order(self) -> None:
        device = Pki(intermediates=2).device()
        chain = Chain.from_pem(device.full_chain.pem())
        assert chain.certificates == device.path
        assert chain.end_entity == device.certificate
        assert chain.intermediates == device.path[1:]
        assert chain.thumbprint("sha1") == Thumbprint.of(device.certificate, "sha1")
        assert Chain.from_der([c.public_bytes(Encoding.DER) for c in device.path]) == chain

    def test_other_blocks_and_text_are_ignored(self) -> None:
        device = Pki().device()
        mixed = b"subject=CN = d\n" + device.key_pem() + device.chain.pem().encode() + b"\ntrailing"
        assert Chain.from_pem(mixed) == device.chain

    @pytest.mark.parametrize(
        "pem",
        [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"x" * (limits.PEM_BYTES + 1)],
    )
    def test_not_pem(self, pem: bytes) -> None:
        with pytest.raises(ChainError) as caught:
            Chain.from_pem(pem)
        assert caught.value.reason == "chain-malformed"

    def test_not_der(self) -> None:
        der = Pki().root.certificate.public_bytes(Encoding.DER)
        version_9 = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09", 1)
        for bad in ([], [b""], [der[:-1]], [der + b"\0"], [version_9]):
            with pytest.raises(ChainError):
                Chain.from_der(bad)

    def test_certificates_of_the_real_certificate_service_are_read_silently(self) -> None:
        """They have serial number 0, of which the library warns; nobody wants that on the console."""
        pki = Pki()
        der = pki.device("zero", serial=1).certificate.public_bytes(Encoding.DER)
        zero = resigned(der.replace(b"\x02\x01\x01\x30", b"\x02\x01\x00\x30", 1), pki.issuing)
        program = "import sys; from edgetrust.pki.chain import Chain; Chain.from_der([bytes.fromhex(sys.argv[1])])"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, zero.hex()],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
        assert (done.returncode, done.stderr) == (0, "")


class TestKeyMatches:
    def test_match(self) -> None:
        device = Pki().device("d")
        key_matches(device.chain, device.key)

    def test_mismatch(self) -> None:
        with pytest.raises(IntegrityError) as caught:
            key_matches(Pki().device("d").chain, SoftKey.generate("other"))
        assert caught.value.reason == "key-certificate-mismatch"

    def test_a_certificate_whose_key_cannot_be_read(self) -> None:
        device = Pki().device("d")
        der = device.certificate.public_bytes(Encoding.DER)
        p256 = bytes.fromhex("06082a8648ce3d030107")  # prime256v1, renamed to a curve that nobody knows
        odd = Chain.from_der([der.replace(p256, bytes.fromhex("06082a8648ce3d030f7f"))])
        with pytest.raises(IntegrityError):
            key_matches(odd, device.key)


class TestTrustBundle:
    def test_version_depends_on_certificates_only(self) -> None:
        one, two = root("One").certificate, root("Two").certificate
        bundle = TrustBundle((one, two), as_of=NOW)
        assert bundle.version == TrustBundle((two, one, one), as_of=NOW.replace(year=2030)).version
        assert bundle.version != TrustBundle((one,), (two,), as_of=NOW).version
        assert TrustBundle((one,), as_of=NOW).version != TrustBundle((), (one,), as_of=NOW).version
        assert len(bundle.version) == 64

    def test_with_adds(self) -> None:
        one, two, three = (root(name).certificate for name in ("One", "Two", "Three"))
        bundle = TrustBundle((one,), as_of=NOW)
        later = NOW.replace(year=2027)
        more = bundle.with_(anchors=[two, one], intermediates=[three], as_of=later)
        assert (more.anchors, more.intermediates, more.as_of) == ((one, two), (three,), later)
        assert bundle.with_() == bundle

    def test_pem(self) -> None:
        one, two = root("One"), root("Two")
        bundle = TrustBundle.from_pem(one.full_chain.pem(), NOW, intermediates=two.full_chain.pem().encode())
        assert bundle == TrustBundle((one.certificate,), (two.certificate,), as_of=NOW)
        assert bundle.pem() == one.full_chain.pem()
        assert TrustBundle.from_pem(" \n", NOW).anchors == ()
        assert "1 anchors, 1 intermediates" in repr(bundle)
        with pytest.raises(ChainError):
            TrustBundle.from_pem("nonsense", NOW)


class TestSystemStore:
    def test_the_file_of_the_environment(self, tmp_path: Path) -> None:
        one, two = root("One"), root("Two")
        broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        (tmp_path / "ca.pem").write_text("# One\n" + one.full_chain.pem() + broken + two.full_chain.pem())
        bundle = load_system_bundle(NOW, {"SSL_CERT_FILE": str(tmp_path / "ca.pem")})
        assert bundle.anchors == (one.certificate, two.certificate)
        assert bundle.as_of == NOW

    def test_directories_of_the_environment(self, tmp_path: Path) -> None:
        """Only what `openssl rehash` names is read, as OpenSSL does."""
        roots = {name: root(name) for name in ("one", "two")}
        for name, holder in roots.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / f"{name}.pem").write_text(holder.full_chain.pem())
            assert openssl("rehash", str(tmp_path / name)).returncode == 0
        (tmp_path / "two" / "unhashed.pem").write_text(root("three").full_chain.pem())
        bundle = load_system_bundle(NOW, {"SSL_CERT_DIR": f"{tmp_path}/one:{tmp_path}/two"})
        assert bundle.anchors == (roots["one"].certificate, roots["two"].certificate)

    @pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
    def test_a_wrong_environment_is_said(self, name: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load_system_bundle(NOW, {name: "/nonexistent"})
        assert caught.value.reason == "trust-store-unreadable"

    def test_the_system(self) -> None:
        assert len(load_system_bundle(NOW, {}).anchors) > 50

    def test_the_process_environment_is_the_default(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one = root("One")
        (tmp_path / "ca.pem").write_text(one.full_chain.pem())
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        monkeypatch.delenv("SSL_CERT_DIR", raising=False)
        assert load_system_bundle(NOW).anchors == (one.certificate,)

    def test_a_system_without_any(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edgetrust.pki.chain._SYSTEM_FILES", (Path("/nonexistent"),))
        monkeypatch.setattr("edgetrust.pki.chain._SYSTEM_DIRECTORIES", ())
        assert load_system_bundle(NOW, {}).anchors == ()
