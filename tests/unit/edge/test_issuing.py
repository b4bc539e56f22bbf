"""What config.toml orders to be issued: the forms of edge specification 1.2 to 1.4, and what is wrong said so."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from edgetrust.edge.credentials import IssuedIdentity
from edgetrust.edge.edgeca import IssuedCa
from edgetrust.edge.issuing import Files, Method
from edgetrust.edge.settings import Settings, load_settings
from edgetrust.errors import ConfigError
from edgetrust.pki.renewal import AutoRenew, Period

IDENTITY = """
hostname = "edgegateway.local"
[provisioning]
source = "manual"
iothub_hostname = "contoso.example"
device_id = "EdgeGateway"
[provisioning.authentication]
method = "x509"
[provisioning.authentication.identity_cert]
method = "est"
"""
BOOTSTRAP = """
[cert_issuance.est]
trusted_certs = ["file:///var/aziot/certs/est-ca.pem"]
[cert_issuance.est.auth]
bootstrap_identity_cert = "file:///var/aziot/certs/bootstrap.pem"
bootstrap_identity_pk = "file:///var/aziot/secrets/bootstrap.key.pem"
[cert_issuance.est.urls]
default = "https://est.contoso.local:8085/.well-known/est"
"""
EDGE_CA = '\n[edge_ca]\nmethod = "est"\n'


def read(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load_settings(file)


def test_the_configuration_of_the_article(tmp_path: Path) -> None:
    settings = read(tmp_path, IDENTITY + BOOTSTRAP + EDGE_CA)
    assert isinstance(settings.credential, IssuedIdentity)
    assert isinstance(settings.edge_ca, IssuedCa)
    identity, edge_ca = settings.credential.order, settings.edge_ca.order
    assert (identity.certificate_id, identity.subject.rfc4514_string()) == ("device-id", "CN=EdgeGateway")
    assert (edge_ca.certificate_id, edge_ca.subject.rfc4514_string()) == (
        "aziot-edged-ca",
        "CN=aziot-edge CA EdgeGateway",
    )
    assert settings.credential.auto_renew is None
    assert settings.edge_ca.auto_renew == AutoRenew()
    for order in (identity, edge_ca):
        assert order.est is not None
        assert order.est.url == "https://est.contoso.local:8085/.well-known/est"
        assert order.est.auth.identity_id == "est-id"
        assert order.est.auth.bootstrap == Files(
            Path("/var/aziot/certs/bootstrap.pem"), Path("/var/aziot/secrets/bootstrap.key.pem")
        )
    assert settings.issuing.trusted == (Path("/var/aziot/certs/est-ca.pem"),)
    assert set(settings.issuing.orders) == {"device-id", "aziot-edged-ca"}
    assert settings.warnings == ()


def test_a_certificate_with_credentials_of_its_own_has_an_identity_of_its_own(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        IDENTITY
        + BOOTSTRAP
        + """
[edge_ca]
method = "est"
common_name = "the edge ca"
url = "https://other.local/est"
username = "u"
password = "p"
identity_cert = "file:///i.pem"
identity_pk = "file:///i.key"
[edge_ca.auto_renew]
rotate_key = false
threshold = "30 min"
retry = "1 min"
""",
    )
    assert isinstance(settings.edge_ca, IssuedCa)
    est = settings.edge_ca.order.est
    assert est is not None
    assert (est.url, est.auth.identity_id, est.auth.user) == ("https://other.local/est", "est-id-aziot-edged-ca", "u")
    assert est.auth.identity == Files(Path("/i.pem"), Path("/i.key"))
    assert settings.edge_ca.auto_renew == AutoRenew(
        False, Period(time=timedelta(minutes=30)), Period(time=timedelta(minutes=1))
    )


def test_urls_by_identifier_and_bootstrap_before_identity(tmp_path: Path) -> None:
    text = BOOTSTRAP.replace("[cert_issuance.est.urls]", 'identity_cert = "file:///i"\nidentity_pk = "file:///k"\n'
                             '[cert_issuance.est.urls]\n"aziot-edged-ca" = "https://ca.local/est"')  # fmt: skip
    settings = read(tmp_path, IDENTITY + text + EDGE_CA)
    assert isinstance(settings.edge_ca, IssuedCa)
    assert settings.edge_ca.order.est is not None
    assert settings.edge_ca.order.est.url == "https://ca.local/est"
    assert settings.edge_ca.order.est.auth.identity is None


def test_a_local_ca_and_a_subject_of_several_parts(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        IDENTITY
        + BOOTSTRAP
        + """
[cert_issuance.local_ca]
cert = "file:///ca.pem"
pk = "file:///ca.key"
[edge_ca]
method = "local_ca"
expiry_days = 40
subject = { L = "AQ", ST = "Antarctica", CN = "the edge ca" }
""",
    )
    assert isinstance(settings.edge_ca, IssuedCa)
    order = settings.edge_ca.order
    assert (order.method, order.life, order.est) == (Method.LOCAL_CA, timedelta(days=40), None)
    assert order.subject.rfc4514_string() == "CN=the edge ca,ST=Antarctica,L=AQ"
    assert settings.issuing.local_ca == Files(Path("/ca.pem"), Path("/ca.key"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (IDENTITY.replace('"est"', '"scep"') + BOOTSTRAP, "method is 'scep'"),
        (IDENTITY + 'common_name = "Other"' + BOOTSTRAP, "that of a device's identity is its id"),
        (IDENTITY + BOOTSTRAP.replace("https:", "http:"), "no https:// address"),
        (IDENTITY + '[cert_issuance.est.urls]\ndefault = "https://x/"', "nothing to authenticate with"),
        (IDENTITY + BOOTSTRAP.replace("bootstrap_identity_pk", "#"), "both bootstrap_identity_cert and bootstrap_ide"),
        (IDENTITY + 'username = "u"' + BOOTSTRAP, "both username and password"),
        (IDENTITY + BOOTSTRAP + '[edge_ca]\nmethod = "local_ca"', "no [cert_issuance.local_ca]"),
        (IDENTITY + BOOTSTRAP + EDGE_CA + 'subject = { X = "y" }', "subject has 'X'"),
        (IDENTITY + BOOTSTRAP + EDGE_CA + 'subject = { C = "Atlantis" }', "edge_ca.subject.C"),
        (IDENTITY + BOOTSTRAP + EDGE_CA + f'common_name = "{"x" * 65}"', "more than 64 bytes"),
        (IDENTITY + BOOTSTRAP + EDGE_CA + "expiry_days = 0", "cannot live for 0 days"),
        (IDENTITY + '[cert_issuance.local_ca]\ncert = { method = "self_signed" }' + BOOTSTRAP, "no common_name"),
        (IDENTITY + '[cert_issuance.local_ca.cert]\nmethod = "local_ca"\ncommon_name = "x"' + BOOTSTRAP, "itself"),
        (IDENTITY + '[cert_issuance.local_ca]\ncert = { method = "est", common_name = "x" }\npk = "file:///k"',
         "has its own key"),
        (IDENTITY + BOOTSTRAP + '[cert_issuance.certs.m]\nmethod = "local_ca"', "no [cert_issuance.local_ca]"),
        (IDENTITY + BOOTSTRAP + '[cert_issuance.certs.m]\nmethod = "est"\nsubject = { C = "DE" }', "has no CN"),
        (IDENTITY + BOOTSTRAP + '[cert_issuance.certs.m]\nmethod = "est"\n'
         'auto_renew = { rotate_key = true, threshold = "80%", retry = "4%" }', "not offered yet"),
        (IDENTITY + '[cert_issuance.local_ca]\ncert = "file:///x"' + BOOTSTRAP, "both cert and pk"),
        (IDENTITY + BOOTSTRAP + '[cert_issuance.est.identity_auto_renew]\nrotate_key = true\nthreshold = "0%"\n'
         'retry = "4%"', "identity_auto_renew.threshold"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert words in caught.value.message
    assert caught.value.exit_code == 2


def test_a_further_certificate_in_the_form_of_the_real_file(tmp_path: Path) -> None:
    ordered = 'method = "self_signed"\nexpiry_days = 7\n'
    flat = read(tmp_path, IDENTITY + BOOTSTRAP + f'[cert_issuance."my cert"]\n{ordered}')
    ours = read(tmp_path, IDENTITY + BOOTSTRAP + f'[cert_issuance.certs."my cert"]\n{ordered}')
    assert flat.issuing.orders["my cert"] == ours.issuing.orders["my cert"]
    assert flat.issuing.further == ("my cert",)


@pytest.mark.parametrize(
    "tables",
    [
        '[cert_issuance.locl_ca]\ncert = "file:///x"',  # no order: a misspelt table
        '[cert_issuance.x]\nmethod = "est"\n[cert_issuance.certs.x]\nmethod = "self_signed"',  # ordered twice
    ],
)
def test_what_is_no_further_certificate_is_an_unknown_key(tmp_path: Path, tables: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'cert_issuance\.") as caught:
        read(tmp_path, IDENTITY + BOOTSTRAP + tables)
    assert caught.value.reason == "config-unknown-key"
