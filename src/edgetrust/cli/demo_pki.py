"""The demonstration PKI: the article's certificates as files. Decides names, profiles and places; makes them with
`pki.issue`.

    my_private_root_CA
      my_optional_intermediate_CA [_2 .. _5]
        iotedged workload ca edgegateway      the Edge CA
        hub server, EdgeGateway and TempSensor (primary, secondary), HumiditySensor (X.509 CA)

`certs/NAME.pem` holds a chain, end entity first, without the root; `private/NAME.key.pem` the key, mode 0600. The bad
ones come from `demo_bad`. Nothing here is fit for production: the keys of the CAs lie beside everything else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from edgetrust.pki.chain import Chain
from edgetrust.pki.issue import Issuer, self_signed
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DOWNSTREAM, EDGE_CA, HUB_SERVER, INTERMEDIATE, ROOT, Profile
from edgetrust.pki.softkeys import SoftKey, write_private, write_public

ROOT_NAME = "my_private_root_CA"
INTERMEDIATE_NAME = "my_optional_intermediate_CA"
EDGE_CA_NAME = "iotedged workload ca edgegateway"
GATEWAY_ID, SENSOR_ID, CA_SENSOR_ID = "EdgeGateway", "TempSensor", "HumiditySensor"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the set is made for. `days`: validity of what lies below the CAs; second certificates get twice as long."""

    intermediates: int = 1
    algorithm: KeyAlgorithm = KeyAlgorithm.P256
    days: int = 30
    hub: str = "contosoiothub.local"
    gateway: str = "edgegateway.local"
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Material:
    """A certificate with its key, in memory and on disk. `chain` goes up to, but does not hold, the root (unless it
    is one).
    """

    chain: Chain
    key: SoftKey
    certificate_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class BadMaterial:
    """A certificate that must be refused. `reason` is what the decision gives for it; `verify` what path validation
    gives, None if the path itself is sound and only the registry can tell.
    """

    name: str
    material: Material
    reason: str
    verify: str | None
    text: str


@dataclass(frozen=True, slots=True)
class DemoPki:
    """The whole set."""

    directory: Path
    options: DemoOptions
    root: Material
    intermediates: tuple[Material, ...]
    hub: Material
    edge_ca: Material
    gateway: tuple[Material, Material]
    sensor: tuple[Material, Material]
    ca_sensor: Material
    bad: tuple[BadMaterial, ...] = ()

    @property
    def issuing(self) -> Material:
        """The CA above the Edge CA and the devices: the last intermediate, or the root if there is none."""
        return self.intermediates[-1] if self.intermediates else self.root


class Workshop:
    """Makes material below a directory: keys of one algorithm, files by one rule."""

    def __init__(self, directory: Path, now: datetime, algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> None:
        self.directory, self.now, self.algorithm = directory, now, algorithm

    def root(self, common_name: str, file_name: str | None = None) -> Material:
        """A self-signed root."""
        key = self.key(common_name)
        return self.keep(file_name or common_name, self_signed(key, ROOT, Names(common_name), self.now), key)

    def below(
        self,
        issuer: Material,
        profile: Profile,
        names: Names,
        file_name: str,
        *,
        validity: timedelta | None = None,
    ) -> Material:
        """A certificate issued by `issuer`. With a validity longer than the profile's limit the profile is widened."""
        key = self.key(file_name)
        kind = profile if validity is None else profile.with_validity(validity)
        issued = Issuer(issuer.key, issuer.chain).issue(key.public_key(), kind, names, self.now, validity=validity)
        return self.keep(file_name, without_root(issued), key)

    def key(self, key_id: str) -> SoftKey:
        return SoftKey.generate(key_id, self.algorithm)

    def keep(self, file_name: str, chain: Chain, key: SoftKey) -> Material:
        """Write a certificate file and a key file."""
        certificate = self.directory / "certs" / f"{file_name}.pem"
        private = self.directory / "private" / f"{file_name}.key.pem"
        write_private(private, key.private_pem().reveal())
        write_public(certificate, chain.pem().encode())
        return Material(chain, key, certificate, private)


def make_demo_pki(directory: Path, now: datetime, options: DemoOptions) -> DemoPki:
    """Make the set below `directory`. RSA keys take a while. Raises Error when a file cannot be written."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    workshop = Workshop(directory, now, options.algorithm)
    root = workshop.root(ROOT_NAME)
    intermediates = _intermediates(workshop, root, options.intermediates)
    issuing = intermediates[-1] if intermediates else root
    validity = timedelta(days=options.days)
    hosts = Names.for_hosts(options.hub, "localhost", "127.0.0.1", "::1")
    made = DemoPki(
        directory=directory,
        options=options,
        root=root,
        intermediates=intermediates,
        hub=workshop.below(issuing, HUB_SERVER, hosts, "hub-server", validity=validity),
        edge_ca=workshop.below(
            issuing, EDGE_CA, Names(EDGE_CA_NAME), EDGE_CA_NAME.replace(" ", "_"), validity=validity
        ),
        gateway=_pair(workshop, issuing, GATEWAY_ID, validity),
        sensor=_pair(workshop, issuing, SENSOR_ID, validity),
        ca_sensor=workshop.below(issuing, DOWNSTREAM, Names(CA_SENSOR_ID), CA_SENSOR_ID, validity=validity),
    )
    if not options.bad:
        return made
    from edgetrust.cli.demo_bad import make_bad

    return replace(made, bad=make_bad(made, now))


def without_root(chain: Chain) -> Chain:
    """The chain as it is sent: self-issued certificates behind the end entity are left out."""
    first, *rest = chain.certificates
    return Chain((first, *(certificate for certificate in rest if certificate.subject != certificate.issuer)))


def _intermediates(workshop: Workshop, root: Material, count: int) -> tuple[Material, ...]:
    """A line of CAs; the last one may have the Edge CA below it, each one above may have one more."""
    made: list[Material] = []
    for place in range(count):
        name = INTERMEDIATE_NAME if place == 0 else f"{INTERMEDIATE_NAME}_{place + 1}"
        profile = INTERMEDIATE.with_path_length(count - place)
        made.append(workshop.below(made[-1] if made else root, profile, Names(name), name))
    return tuple(made)


def _pair(workshop: Workshop, issuer: Material, device: str, validity: timedelta) -> tuple[Material, Material]:
    """Two certificates for one device with different ends, so that one can be replaced while the other serves."""
    primary = workshop.below(issuer, DOWNSTREAM, Names(device), f"{device}-primary", validity=validity)
    secondary = workshop.below(issuer, DOWNSTREAM, Names(device), f"{device}-secondary", validity=2 * validity)
    return primary, secondary
