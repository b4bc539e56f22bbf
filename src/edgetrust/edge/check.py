"""`edgetrust edge check`: what is wrong with a gateway, or soon will be, with the cause and the fix.

Rules. Every check has a stable identifier, those of `iotedge check` where it has the same meaning (edge specification
7.1). A check looks and changes nothing; it runs beside a gateway that serves. One that needs what another found missing
is skipped. An error is what does not work now, a warning what will not, or should not be so in production.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from edgetrust.clock import Clock
from edgetrust.edge import servicechecks, surroundings
from edgetrust.edge.checking import Bench, Check, FoundError, IgnoredError, Outcome, Result, SkippedError, run_one
from edgetrust.edge.credentials import DeviceCertificate, NoDevice
from edgetrust.edge.edgeca import EdgeCaFiles, IssuedCa, QuickstartCa
from edgetrust.edge.files import DEVICE_ID, EDGE_CA, EST_ID, LOCAL_CA, Layout, file_stem
from edgetrust.edge.hubapi import HubTrust
from edgetrust.edge.issuing import Files
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.pairs import read_chain
from edgetrust.edge.provisioning import as_assigned
from edgetrust.edge.servicechecks import MANAGEMENT, WORKLOAD, answers, configured
from edgetrust.edge.settings import load_settings
from edgetrust.edge.status import read_state
from edgetrust.edge.surroundings import shake
from edgetrust.pki.chain import Chain, TrustBundle, key_matches
from edgetrust.pki.names import COMMON_NAME_CHARACTERS, as_ip

_SOON = timedelta(days=7)
_RSA_BITS = 2048
_LOOPBACK = "127.0.0.1"
_ANY = ("0.0.0.0", "::", "")  # noqa: S104 - what a gateway listens on


async def run_checks(
    config: Path,
    root: Path,
    clock: Clock,
    *,
    without: frozenset[str] = frozenset(),
    time_server: str | None = None,
) -> list[Result]:
    """Run all checks but those in `without`, in order."""
    bench, results = Bench(config, Layout(root), clock, time_server), []
    for name, (description, check) in CHECKS.items():
        if name in without:
            results.append(Result(name, description, Outcome.IGNORED, "left out"))
            continue
        if name in OF_A_GATEWAY and bench.settings is not None and isinstance(bench.settings.credential, NoDevice):
            results.append(Result(name, description, Outcome.IGNORED, "there is no hub: provisioning.source is none"))
            continue
        results.append(await run_one(name, description, check, bench))
        if name == CONFIG_CHECK and results[-1].outcome is Outcome.ERROR:
            results[-1] = replace(results[-1], outcome=Outcome.FATAL)
    return results


# Configuration ------------------------------------------------------------------------------------------------------


async def _config(bench: Bench) -> None:
    settings = await asyncio.to_thread(load_settings, bench.config)
    bench.settings = await asyncio.to_thread(as_assigned, settings, bench.layout)


async def _hostname(bench: Bench) -> None:
    name, own = bench.known.hostname, socket.gethostname()
    if len(name) > COMMON_NAME_CHARACTERS:
        raise FoundError(f"{name!r} has more than {COMMON_NAME_CHARACTERS} characters", "choose a shorter hostname")
    if as_ip(name) is None and name.lower() != own.lower() and not name.lower().startswith(f"{own.lower()}."):
        raise FoundError(
            f"hostname is {name!r} and this machine calls itself {own!r}",
            f"make sure that devices resolve {name!r} to this machine, or set hostname",
            warning=True,
        )


async def _preloaded(bench: Bench) -> None:
    for place in bench.known.serving.preloaded.values():
        if isinstance(place, Path):
            await asyncio.to_thread(read_chain, place)


async def _est_https(bench: Bench) -> None:
    if not any(order.est for order in bench.known.issuing.orders.values()):
        raise IgnoredError("nothing is issued by EST")


# Certificates -------------------------------------------------------------------------------------------------------


def _expiry(chain: Chain, what: str, bench: Bench, fix: str) -> None:
    leaf, now = chain.end_entity, bench.clock.now()
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < start:
        raise FoundError(f"{what} is not valid before {start:%Y-%m-%d %H:%M:%SZ}", "compare the clocks: date -u")
    if now >= end:
        raise FoundError(f"{what} expired at {end:%Y-%m-%d %H:%M:%SZ}", fix)
    if end - now < _SOON and end - start > _SOON:
        days = (end - now).days
        raise FoundError(f"{what} will expire soon ({end:%Y-%m-%d %H:%M:%SZ}, in {days} days)", fix, warning=True)


async def _identity_expiry(bench: Bench) -> None:
    credential = bench.known.credential
    if isinstance(credential, DeviceCertificate):
        chain: Chain | None = await asyncio.to_thread(read_chain, credential.certificate)
    else:
        chain = await asyncio.to_thread(bench.store.load, DEVICE_ID)
    if chain is None:
        raise SkippedError("the device has no certificate")
    _expiry(chain, "the device identity certificate", bench, "issue a new one and register its thumbprint at the hub")


async def _est_expiry(bench: Bench) -> None:
    seen = False
    for order in bench.known.issuing.orders.values():
        if order.est is None:
            continue
        auth = order.est.auth
        for files, what in ((auth.bootstrap, "the bootstrap certificate"), (auth.identity, "the EST identity")):
            if files is not None:
                seen = True
                _expiry(await asyncio.to_thread(read_chain, files.certificate), what, bench, "ask the CA for another")
        held = await asyncio.to_thread(bench.store.load, auth.identity_id)
        if held is not None:
            _expiry(held, f"the EST identity {auth.identity_id}", bench, "edgetrust cert status says why")
    if not seen:
        raise IgnoredError("no certificate authenticates to an EST server")


async def _local_ca_expiry(bench: Bench) -> None:
    wanted = bench.known.issuing.local_ca
    if wanted is None:
        raise IgnoredError("there is no local CA")
    if isinstance(wanted, Files):
        chain: Chain | None = await asyncio.to_thread(read_chain, wanted.certificate)
    else:
        chain = await asyncio.to_thread(bench.store.load, LOCAL_CA)
    if chain is None:
        raise SkippedError("there is no local CA yet; it is issued with the first certificate below it")
    _expiry(chain, "the local CA", bench, "issue a new local CA")


async def _edge_ca_chain(bench: Bench) -> Chain:
    wanted = bench.known.edge_ca
    if isinstance(wanted, EdgeCaFiles):
        return await asyncio.to_thread(read_chain, wanted.certificate)
    chain = await asyncio.to_thread(bench.store.load, EDGE_CA)
    if chain is None:
        raise SkippedError("there is no Edge CA yet; it is made when the gateway starts")
    return chain


async def _edge_ca_expiry(bench: Bench) -> None:
    fix = "replace the files in [edge_ca] cert and pk"
    if isinstance(bench.known.edge_ca, IssuedCa):
        fix = "edgetrust cert status ROOT says why it was not renewed"
    _expiry(await _edge_ca_chain(bench), "the Edge CA", bench, fix)


async def _edge_ca_production(bench: Bench) -> None:
    if isinstance(bench.known.edge_ca, QuickstartCa):
        raise FoundError(
            "the Edge CA signs itself: no device trusts it, and it changes when it is renewed",
            'set [edge_ca] cert and pk, or method = "est"',
            warning=True,
        )


async def _edge_ca_name(bench: Bench) -> None:
    chain = await _edge_ca_chain(bench)
    names = {str(one.value) for one in chain.end_entity.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
    for taken, what in ((bench.known.hostname, "hostname"), (bench.known.device, "device id")):
        if taken in names:
            raise FoundError(
                f"the common name of the Edge CA, {taken!r}, is also the {what}: the chain looks like a loop",
                "give the Edge CA another common name",
            )


async def _pairs_match(bench: Bench) -> None:
    keys, seen = open_keys(bench.layout, bench.known.token, bench.known.key_places()), 0
    for identifier in (DEVICE_ID, EDGE_CA, EST_ID):
        chain = await asyncio.to_thread(bench.store.load, identifier)
        if chain is None:
            continue
        seen += 1
        if not await asyncio.to_thread(keys.exists, identifier):
            raise FoundError(f"the key of {identifier} is missing", f"restore {file_stem(identifier)}.key")
        key_matches(chain, await asyncio.to_thread(keys.load, identifier))
    if not seen:
        raise SkippedError("there is no certificate yet")


async def _strong_keys(bench: Bench) -> None:
    for identifier in (DEVICE_ID, EDGE_CA, EST_ID):
        chain = await asyncio.to_thread(bench.store.load, identifier)
        if chain is None:
            continue
        key = chain.end_entity.public_key()
        weak = isinstance(key, rsa.RSAPublicKey) and key.key_size < _RSA_BITS
        if weak or not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            raise FoundError(
                f"the key of {identifier} is weak", "use RSA with 2048 bits or more, or P-256", warning=True
            )


# What runs ----------------------------------------------------------------------------------------------------------


def _reaches(port: str) -> Check:
    async def check(bench: Bench) -> None:
        settings = bench.known
        if not settings.hub:
            raise SkippedError("no provisioning service has named a hub yet")
        bundle = await asyncio.to_thread(HubTrust(settings.upstream, bench.clock).bundle)
        await shake(
            settings.upstream.host, getattr(settings.upstream, port), bundle, settings.upstream.name, bench.clock
        )

    return check


async def _server_certificate(bench: Bench) -> None:
    state = read_state(bench.layout.status)
    host = bench.known.listen.host
    chain = await _edge_ca_chain(bench)
    anchors = TrustBundle(chain.certificates[-1:], as_of=bench.clock.now())
    place = _LOOPBACK if host in _ANY else host
    await shake(place, int(state["gateway"]["mqtt_port"]), anchors, bench.known.hostname, bench.clock)


async def _no_amqp(bench: Bench) -> None:
    del bench
    raise IgnoredError("this gateway uses MQTT")


CONFIG_CHECK = "config-well-formed"
CHECKS: dict[str, tuple[str, Check]] = {
    CONFIG_CHECK: ("config.toml is well-formed", _config),
    "keyd-config-well-formed": ("the key service can read its part", configured("keyd", "run/aziot/keyd.sock")),
    "certd-config-well-formed": (
        "the certificate service can read its part",
        configured("certd", "run/aziot/certd.sock"),
    ),
    "identityd-config-well-formed": (
        "the identity service can read its part",
        configured("identityd", "run/aziot/identityd.sock"),
    ),
    "aziot-edged-config-well-formed": ("the module runtime can read its part", configured("edged", MANAGEMENT)),
    "configs-up-to-date": ("config.toml is the one that was applied", surroundings.up_to_date),
    "hostname": ("hostname is this machine's", _hostname),
    "parent_hostname": ("the gateway above has an address", surroundings.parent),
    "proxy-settings": ("no proxy is expected", surroundings.proxy),
    "host-local-time": ("the clock is right", surroundings.local_time),
    "files-readable": ("every file that is named can be read", surroundings.files_readable),
    "private-keys-closed": ("keys are for their owner only", surroundings.keys_closed),
    "certs-preloaded": ("preloaded certificates can be read", _preloaded),
    "est-server-https": ("EST servers are asked by HTTPS", _est_https),
    "identity-certificate-expiry": ("the device identity certificate is valid", _identity_expiry),
    "est-identity-and-bootstrap-certificate-expiry": ("certificates for EST are valid", _est_expiry),
    "local-ca-certificate-expiry": ("the local CA is valid", _local_ca_expiry),
    "edge-ca-expiry": ("the Edge CA is valid", _edge_ca_expiry),
    "edge-ca-production": ("the Edge CA belongs to a PKI", _edge_ca_production),
    "edge-ca-name-collision": ("the Edge CA has a name of its own", _edge_ca_name),
    "certs-match-private-keys": ("certificates belong to their keys", _pairs_match),
    "key-pairs-read": ("keys are strong enough", _strong_keys),
    "keyd-running": ("the key service answers", answers("run/aziot/keyd.sock")),
    "certd-running": ("the certificate service answers", answers("run/aziot/certd.sock")),
    "identityd-running": ("the identity service answers", answers("run/aziot/identityd.sock")),
    "tpmd-running": ("the TPM answers", servicechecks.tpm_answers),
    "connect-management-uri": ("the management API answers", answers(MANAGEMENT, "/systeminfo", ok=True)),
    "connect-workload-uri": ("the workload API answers", answers(WORKLOAD, "/modules", ok=True)),
    "aziot-edge-version": ("the gateway that runs is of this version", servicechecks.same_version),
    "certs-read": ("the certificate service gives out certificates", surroundings.certificates_read),
    "edgehub-server-certificate": ("devices can verify the gateway", _server_certificate),
    "host-connect-est-endpoint": ("EST servers are reached and verified", surroundings.est_endpoints),
    "host-connect-dps-endpoint": ("the provisioning service is reached and verified", surroundings.dps_endpoint),
    "host-connect-iothub-amqp": ("the hub is reached by AMQP", _no_amqp),
    "host-connect-iothub-https": ("the hub is reached and verified, HTTPS", _reaches("https_port")),
    "host-connect-iothub-mqtt": ("the hub is reached and verified, MQTT", _reaches("mqtt_port")),
}

OF_A_GATEWAY = frozenset(
    {
        "aziot-edged-config-well-formed",
        "identity-certificate-expiry",
        "edge-ca-expiry",
        "edge-ca-production",
        "edge-ca-name-collision",
        "connect-management-uri",
        "connect-workload-uri",
        "aziot-edge-version",
        "edgehub-server-certificate",
        "host-connect-iothub-https",
        "host-connect-iothub-mqtt",
    }
)
"""What a machine without a hub has no use for."""

NOT_HERE: dict[str, str] = {
    "tpmd-config-well-formed": "the TPM has no service of its own; `config-well-formed` reads `[tpm]`",
    "aziot-version": "nobody is asked for the newest version; `aziot-edge-version` compares what runs",
    "config-up-to-date": "there is one configuration for all services: `configs-up-to-date`",
    "container-engine-uri": "modules are processes",
    "container-engine-dns": "modules are processes",
    "container-engine-ipv6": "modules are processes",
    "container-engine-logrotate": "modules are processes; [limits](limits.md) say how much of what they print is kept",
    "container-local-time": "modules have the clock of the machine",
    "container-resolve-parent-hostname": "modules resolve names as the machine does: `parent_hostname`",
    "container-default-connect-upstream-amqp": "there is no AMQP",
    "container-default-connect-upstream-https": "modules use the machine's network: `host-connect-iothub-https`",
    "container-default-connect-upstream-mqtt": "modules use the machine's network: `host-connect-iothub-mqtt`",
    "container-connect-upstream-amqp": "there is no AMQP",
    "container-connect-upstream-https": "modules use the machine's network: `host-connect-iothub-https`",
    "container-connect-upstream-mqtt": "modules use the machine's network: `host-connect-iothub-mqtt`",
    "edge-agent-storage-mounted-from-host": "there is no agent",
    "edge-hub-storage-mounted-from-host": "what waits lies on the machine's own disk, below the root",
    "check-agent-image": "there is no agent",
}
"""Checks of `iotedge check` that are not made, and why."""
