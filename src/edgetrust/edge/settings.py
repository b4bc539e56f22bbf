"""What `config.toml` means: from the shape of the file to what the gateway does, or one clear error.

Rules. A key that would change who is trusted, or where a private key lives, and that is not offered here is an error,
never silently ignored. A key that only matters to containers or to parts that are not used is a warning. `file://`
URLs are absolute. Nothing is read but the file itself; certificates and keys are looked at by `certd`. Source: edge
specification 1.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from edgetrust.config import load_toml
from edgetrust.edge.attesting import Dps
from edgetrust.edge.configfile import ConfigFile, GatewayTable, ListenTable, MetricsTable, one_shape
from edgetrust.edge.credentials import Assignment, Credential, CredentialReader, DeviceCertificate
from edgetrust.edge.edgeca import EdgeCa, EdgeCaFiles, EdgeCaReader, QuickstartCa
from edgetrust.edge.files import DEVICE_ID, EDGE_CA, LOCAL_CA
from edgetrust.edge.issuing import Files, Issuing, IssuingReader
from edgetrust.edge.reaching import Forward, ReachingReader, UpstreamAddress
from edgetrust.edge.serving import Serving, read_serving
from edgetrust.edge.tokens import KeyPlace, TokenKey, TokenPlace
from edgetrust.limits import CERTIFICATE_NAMES, QUEUE_BYTES
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import COMMON_NAME_CHARACTERS, as_ip, dns_fault
from edgetrust.protocol.repeats import Recognition

CLOUD_TIMEOUT_SECONDS = 70  # the least the real product takes (edge specification 1.1)
METRICS_PORT = 9600  # as edgeHub has it
MEANINGLESS = {
    "allow_elevated_docker_permissions": "there are no containers",
    "moby_runtime": "there are no containers",
    "image_garbage_collection": "there are no containers",
    "agent": "modules are processes here: [edgetrust.modules.NAME] starts one",
    "connect": "sockets lie below the root",
    "listen": "sockets lie below the root; ports are set in [edgetrust.listen]",
    "watchdog": "modules are processes here: [edgetrust.modules.NAME] starts one",
    "iotedge_max_requests": "the limits are fixed",
    "aziot_max_requests": "the limits are fixed",
    "additional_info": "it is not sent to the hub",
    "imported_master_encryption_key": "nothing of version 1.1 is read",
    "manifest_trust_bundle_cert": "manifests are not signed",
}
OF_DPS = ("auto_reprovisioning_mode", "tpm")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the gateway listens. Port 0: any free one. HTTPS without a port is on 443 where that can be had."""

    host: str
    mqtt_port: int
    https_port: int | None


@dataclass(frozen=True, slots=True)
class MetricsPlace:
    """Where metrics are served. `asked_for`: the file names the port, so that it has to be had."""

    enabled: bool
    host: str
    port: int
    asked_for: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """One gateway. `hub` is in lower case; `names` are what devices may dial besides `hostname`; `trust` is how long
    the copy of the registry may decide without the hub (None: as long as it has to); `warnings` are for the operator.

    With `dps`, hub and device are empty until a provisioning service has assigned them. With `keys_elsewhere` another
    process has the keys, and no file of one was opened.
    """

    source: Path
    hostname: str
    hub: str
    device: str
    credential: Credential
    edge_ca: EdgeCa
    trust_bundle: Path | None
    listen: Listen
    upstream: UpstreamAddress
    hub_verified_anchors: bool
    thumbprint_needs_common_name: bool
    keep_dollar_in_certificate_ids: bool
    server_key: KeyAlgorithm
    prefer_backup: bool
    retries: int
    names: tuple[str, ...] = ()
    trust: timedelta | None = None
    queue_age: timedelta | None = None
    queue_bytes: int = QUEUE_BYTES
    queue_drops_oldest: bool = False
    recognition: Recognition = Recognition.RESENT
    metrics: MetricsPlace = MetricsPlace(True, "127.0.0.1", METRICS_PORT, False)
    issuing: Issuing = Issuing()  # noqa: RUF009 - frozen
    serving: Serving = Serving()  # noqa: RUF009 - frozen
    token: TokenPlace | None = None
    forward: Forward = Forward()  # noqa: RUF009 - frozen
    dps: Dps | None = None
    keys_elsewhere: bool = False
    warnings: tuple[str, ...] = ()
    file: ConfigFile | None = field(default=None, repr=False, compare=False)

    @property
    def called(self) -> frozenset[str]:
        """What the server certificate is for, and what clients call the gateway; in lower case."""
        return frozenset({self.hostname.lower(), *(name.lower() for name in self.names), "edgehub", "localhost"})

    @property
    def token_hosts(self) -> frozenset[str]:
        """What a token may be made out to: the hub, or any name of this gateway; in lower case."""
        return frozenset({self.hub, self.hostname.lower(), *(name.lower() for name in self.names)})

    def key_places(self, *, files: bool = False) -> dict[str, KeyPlace]:
        """Keys that have a place of their own: preloaded ones, and those of certificates that are in a token; with
        `files`, those of certificates in files too.
        """
        places = dict(self.serving.preloaded_keys)
        pairs = {DEVICE_ID: self.credential, EDGE_CA: self.edge_ca, LOCAL_CA: self.issuing.local_ca}
        for key_id, pair in pairs.items():
            if isinstance(pair, DeviceCertificate | EdgeCaFiles | Files) and (files or isinstance(pair.key, TokenKey)):
                places[key_id] = pair.key
        authentications = [order.est.auth.files for order in self.issuing.orders.values() if order.est is not None]
        places |= {key_id: pair.key for key_id, pair in filter(None, authentications) if files}
        return places

    def assigned_to(self, assignment: Assignment) -> Settings:
        """The same gateway, as what a provisioning service has assigned it. Raises ConfigError."""
        assert self.file is not None, "it was read from a file"
        made = settings_from(self.file, self.source, assignment, keys_elsewhere=self.keys_elsewhere)
        return replace(made, listen=self.listen)


def load_settings(path: Path, assignment: Assignment | None = None, *, keys_elsewhere: bool = False) -> Settings:
    """Read `config.toml`. Raises ConfigError (exit code 2) that names the key and, where there is one, the fix.

    With `keys_elsewhere` no file of a key is opened: another process has it.
    """
    return settings_from(load_toml(path, ConfigFile, one_shape), path, assignment, keys_elsewhere=keys_elsewhere)


def settings_from(
    file: ConfigFile, source: Path, assignment: Assignment | None = None, *, keys_elsewhere: bool = False
) -> Settings:
    """Give the file its meaning; `assignment` is what a provisioning service has said. Raises ConfigError."""
    library = file.aziot_keys.pkcs11_lib_path if file.aziot_keys is not None else None
    module = None if library is None else Path(library)
    issuing = IssuingReader(source, file.cert_issuance, module)
    reader = _Reader(source, module)
    reader.refuse_what_is_not_offered(file)
    credentials = CredentialReader(source, module, issuing, keys_elsewhere=keys_elsewhere)
    hub, device, credential, dps = credentials.provisioning(file, assignment)
    hostname = reader.hostname(file.hostname)
    edge_ca = EdgeCaReader(source, module, issuing).edge_ca(file.edge_ca, device)
    own = file.edgetrust
    names = reader.names(own.gateway, hostname)
    upstream = reader.upstream(own.upstream, hub, reader.parent(file), file.trust_bundle_cert)
    est = [order.est.url for order in issuing.issuing.orders.values() if order.est is not None]
    known_as = frozenset(name.lower() for name in (hostname, *names))
    forward, unclear = reader.forward(own.forward, None if dps is None else dps.endpoint, est, known_as)
    return Settings(
        source=source,
        hostname=hostname,
        hub=hub,
        device=device,
        credential=credential,
        edge_ca=edge_ca,
        trust_bundle=reader.path("trust_bundle_cert", file.trust_bundle_cert) if file.trust_bundle_cert else None,
        listen=reader.listen(own.listen),
        upstream=upstream,
        hub_verified_anchors=reader.choice("x509_ca_anchor", own.gateway, ("hub+bundle", "bundle")) == "hub+bundle",
        thumbprint_needs_common_name=own.gateway.require_cn_match_for_thumbprint,
        keep_dollar_in_certificate_ids=reader.choice("module_cert_id_style", own.gateway, ("1.2", "1.4")) == "1.2",
        server_key=KeyAlgorithm(reader.choice("server_key", own.gateway, tuple(KeyAlgorithm))),
        prefer_backup=file.prefer_module_identity_cache,
        retries=reader.retries(file),
        names=names,
        trust=timedelta(days=own.gateway.offline_days) if own.gateway.offline_days else None,
        queue_age=timedelta(days=own.gateway.queue_days) if own.gateway.queue_days else None,
        queue_bytes=own.gateway.queue_bytes,
        queue_drops_oldest=reader.choice("queue_full", own.gateway, ("hold", "drop-oldest")) == "drop-oldest",
        recognition=Recognition(reader.choice("deduplicate", own.gateway, tuple(Recognition))),
        metrics=reader.metrics(own.metrics),
        issuing=replace(issuing.issuing, upstream=upstream),
        serving=read_serving(source, file, module),
        token=reader.token(file.aziot_keys),
        forward=forward,
        dps=dps,
        keys_elsewhere=keys_elsewhere,
        warnings=(*_warnings(file, edge_ca), *unclear),
        file=file,
    )


def _warnings(file: ConfigFile, edge_ca: EdgeCa) -> list[str]:
    found = [f"{key} has no effect: {why}" for key, why in MEANINGLESS.items() if getattr(file, key) is not None]
    if file.provisioning is None or file.provisioning.source != "dps":
        found += [f"{key} has no effect: it concerns DPS only" for key in OF_DPS if getattr(file, key) is not None]
    if file.provisioning is not None and file.provisioning.source == "none":
        return found
    if isinstance(edge_ca, QuickstartCa):
        found.append(
            "the quickstart Edge CA is not for production, nobody trusts it: set [edge_ca] cert and pk, or method"
        )
    elif isinstance(edge_ca, EdgeCaFiles) and file.edge_ca is not None and file.edge_ca.auto_renew is not None:
        found.append("edge_ca.auto_renew has no effect: an Edge CA from files is renewed by replacing the files")
    return found


class _Reader(ReachingReader):
    """Turns the tables into values."""

    def refuse_what_is_not_offered(self, file: ConfigFile) -> None:
        if file.local_gateway_hostname is not None:
            raise self.not_offered("local_gateway_hostname", "use parent_hostname for a gateway below a gateway")

    def parent(self, file: ConfigFile) -> str | None:
        """The gateway above."""
        return None if file.parent_hostname is None else self.hub_name("parent_hostname", file.parent_hostname)

    # Names, files, choices ------------------------------------------------------------------------------------------

    def hostname(self, configured: str | None) -> str:
        name = socket.gethostname() if configured is None else configured
        if not name or len(name) > COMMON_NAME_CHARACTERS:
            raise self.wrong(
                f"hostname has {len(name)} characters; the common name of the server certificate takes 1 to "
                f"{COMMON_NAME_CHARACTERS}"
            )
        if as_ip(name) is None and not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?", name):
            raise self.wrong(f"hostname: {name!r} is neither a host name nor an address")
        return name

    def names(self, table: GatewayTable, hostname: str) -> tuple[str, ...]:
        """Further names and addresses of the server certificate, each once."""
        for name in table.names:
            if as_ip(name) is None and (dns_fault(name) is not None or name.startswith("*")):
                raise self.wrong(f"edgetrust.gateway.names: {name[:260]!r} is neither a host name nor an address")
        found = tuple(dict.fromkeys(name for name in table.names if name.lower() != hostname.lower()))
        if len(found) > CERTIFICATE_NAMES - 2:  # two are taken: the hostname, and edgeHub
            raise self.wrong(f"edgetrust.gateway.names has {len(found)} names", fix=f"at most {CERTIFICATE_NAMES - 2}")
        return found

    def choice(self, name: str, table: GatewayTable, known: tuple[str, ...]) -> str:
        value: str = getattr(table, name)
        if value not in known:
            listed = ", ".join(f'"{one}"' for one in known)
            raise self.wrong(f"edgetrust.gateway.{name} is {value!r}", fix=f"one of {listed}")
        return value

    def retries(self, file: ConfigFile) -> int:
        if file.cloud_timeout_sec < CLOUD_TIMEOUT_SECONDS:
            raise self.wrong(f"cloud_timeout_sec must be at least {CLOUD_TIMEOUT_SECONDS} seconds")
        if file.cloud_retries < 0:
            raise self.wrong("cloud_retries must not be negative")
        return file.cloud_retries

    def listen(self, table: ListenTable) -> Listen:
        for name, port in (("mqtt_port", table.mqtt_port), ("https_port", table.https_port or 0)):
            self.port(f"edgetrust.listen.{name}", port, lowest=0)
        if not table.host:
            raise self.wrong("edgetrust.listen.host is empty")
        return Listen(table.host, table.mqtt_port, table.https_port)

    def metrics(self, table: MetricsTable) -> MetricsPlace:
        self.port("edgetrust.metrics.port", table.port or 0, lowest=0)
        if not table.host:
            raise self.wrong("edgetrust.metrics.host is empty")
        return MetricsPlace(
            table.enabled, table.host, METRICS_PORT if table.port is None else table.port, table.port is not None
        )
