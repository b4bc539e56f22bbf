"""What `bench/enroll.py` measures against: the bare work in this process, `openssl ca`, and a small server in Go."""

from __future__ import annotations

import base64
import resource
import shutil
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def make_requests(names: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """A key (PEM) and a CSR (DER) for each name."""
    made = []
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        made.append((pem, request.public_bytes(Encoding.DER)))
    return made


def bare(requests: Sequence[bytes]) -> float:
    """Microseconds of CPU for each: read and verify the request, sign a device's certificate, write the PKCS#7."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    begin = time.process_time()
    for der in requests:
        asked = x509.load_der_x509_csr(der)
        assert asked.is_signature_valid
        public = asked.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(asked.subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=90))
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(x509.KeyUsage(True, *[False] * 8), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
            .add_extension(authority, False)
        )
        base64.encodebytes(pkcs7.serialize_certificates([builder.sign(key, hashes.SHA256())], Encoding.DER))
    return (time.process_time() - begin) / len(requests) * 1e6


OPENSSL_CONFIG = """\
[ca]
default_ca = ca
[ca]
dir = {dir}
database = {dir}/index.txt
serial = {dir}/serial
new_certs_dir = {dir}/certs
certificate = {dir}/ca.pem
private_key = {dir}/ca.key
default_md = sha256
default_days = 90
unique_subject = no
rand_serial = yes
policy = policy
x509_extensions = leaf
[policy]
commonName = supplied
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def openssl_ca(directory: Path, requests: Sequence[bytes]) -> float:
    """Microseconds of CPU for each of a batch that one process of `openssl ca` signs."""
    (directory / "certs").mkdir(parents=True)
    (directory / "index.txt").touch()
    (directory / "ca.cnf").write_text(OPENSSL_CONFIG.format(dir=directory))
    own = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=issuer", "-days", "100"]
    _quiet("req", "-x509", *own, "-keyout", str(directory / "ca.key"), "-out", str(directory / "ca.pem"))
    files = []
    for number, der in enumerate(requests):
        files.append(str(directory / f"{number}.csr"))
        Path(files[-1]).write_bytes(x509.load_der_x509_csr(der).public_bytes(Encoding.PEM))
    before = _children()
    _quiet("ca", "-batch", "-notext", "-config", str(directory / "ca.cnf"), "-infiles", *files)
    return (_children() - before) / len(requests) * 1e6


def _quiet(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=300)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def go_server(directory: Path) -> tuple[subprocess.Popen[str], int, Path, Path] | None:
    """A small EST server in Go: its process, its port, its root and a client's certificate and key (PEM files). None
    where Go is not installed.
    """
    go = shutil.which("go")
    if go is None:
        return None
    directory.mkdir()
    source = Path(__file__).parent / "goca" / "main.go"
    program = directory / "goca"
    subprocess.run([go, "build", "-o", program, source], check=True, capture_output=True, timeout=300)
    process = subprocess.Popen([program, directory], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    return process, port, directory / "root.pem", directory / "client.pem"
