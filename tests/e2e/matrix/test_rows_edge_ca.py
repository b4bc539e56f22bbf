"""Rows 73 to 77 and 80: the Edge CA that makes itself, and what depends on it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from support.ports import free_port
from support.relay import Relay
from support.story import Site, Story, edgetrust, eventually, fingerprint, listens, tool, x509


@pytest.fixture(scope="module")
def quickstart(story: Story) -> Iterator[tuple[Site, Relay]]:
    """A gateway without [edge_ca] that runs; its way to the hub can be cut."""
    with Relay(story.mqtt_port) as mqtt, Relay(story.https_port) as https:
        site = story.site("Quickstart", quickstart=True, ports=(mqtt.port, https.port))
        assert not site.certificates.exists()
        site.start()
        site.wait_for_hub()
        yield site, https
        site.stop()


def test_row_073_the_edge_ca_makes_itself(story: Story, quickstart: tuple[Site, Relay]) -> None:
    """Without [edge_ca] the first start makes a self-signed Edge CA for 90 days; it issues edgeHub's certificate."""
    site, _ = quickstart
    assert "[edge_ca]" not in site.config.read_text()
    digest = tool("sha256sum", say="aziot-edged-ca").out.split()[0]
    edge_ca = site.certificates / f"aziotedgedca-{digest}.cer"
    assert x509(edge_ca, "-subject").partition("=")[2] == x509(edge_ca, "-issuer").partition("=")[2]
    assert x509(edge_ca, "-subject") == "subject=CN = aziot-edge CA Quickstart"
    assert "CA:TRUE, pathlen:0" in x509(edge_ca, "-ext", "basicConstraints")
    days = tool("openssl", "x509", "-in", edge_ca, "-noout", "-checkend", str(89 * 86400)).code
    assert days == 0
    assert tool("openssl", "x509", "-in", edge_ca, "-noout", "-checkend", str(90 * 86400 + 60)).code == 1
    seen = site.look("-showcerts", "-verify_hostname", "edgegateway.local", trust=edge_ca)
    assert seen.verified
    assert dict(re.findall(r"^depth=(\d) (.*)$", seen.text, re.MULTILINE)).keys() == {"0", "1"}


def test_row_074_it_is_made_once(story: Story, quickstart: tuple[Site, Relay]) -> None:
    """Not there before the first start, the Edge CA is used again after a restart."""
    site, _ = quickstart
    before = fingerprint(site.edge_ca)
    site.stop()
    site.start()
    assert fingerprint(site.edge_ca) == before


def test_row_075_it_is_not_for_production(story: Story, quickstart: tuple[Site, Relay]) -> None:
    """A quickstart Edge CA is warned of, in the log and whenever the gateway's status is asked for."""
    site, _ = quickstart
    warnings = [entry["detail"] for entry in site.logged("config.warning") if entry["level"] == "warning"]
    assert any("quickstart" in warning and "not for production" in warning for warning in warnings)
    done = edgetrust("edge", "status", "--root", site.root)
    assert done.code == 0, done.text
    assert "not for production" in done.out
    assert "quickstart" not in edgetrust("edge", "status", "--root", story.gateway.root).out


def test_row_076_no_network_is_needed_to_issue(story: Story, quickstart: tuple[Site, Relay]) -> None:
    """With the hub out of reach a restart issues a new server certificate all the same."""
    site, https = quickstart
    before = fingerprint(site.server)
    site.stop()
    https.cut()
    try:
        site.start()
        assert fingerprint(site.server) != before
        assert site.look("-verify_hostname", "edgegateway.local", trust=site.edge_ca).verified
        eventually(lambda: not site.state()["upstream"]["connected"])
    finally:
        https.mend()


@pytest.mark.parametrize("kind", ["quickstart", "files"])
def test_row_077_without_an_edge_ca_nothing_is_served(story: Story, kind: str) -> None:
    """When the key of the Edge CA is gone, the port stays closed and the log says why."""
    site = story.site(f"WithoutKey-{kind}", quickstart=kind == "quickstart")
    port = free_port()
    site.edit("mqtt_port = 0", f"mqtt_port = {port}")
    site.start()
    assert listens(port)
    site.stop()
    key = next(site.keys.glob("aziotedgedca-*.key")) if kind == "quickstart" else site.folder / "edge-ca.key.pem"
    key.unlink()
    site.launch()
    assert site.wait() in (1, 2)
    assert not listens(port)
    last = site.text().splitlines()[-2:]
    assert any("error: " in line for line in last), last
    assert "Traceback" not in site.text()
    assert "key" in "".join(last).lower()


def test_row_080_one_door_from_outside(story: Story) -> None:
    """All that comes in comes through edgeHub's TLS listeners, MQTT and HTTPS: the gateway listens on nothing else."""
    done = tool("ss", "-Hltnp")
    assert done.code == 0, done.text
    own = [line for line in done.out.splitlines() if f"pid={story.gateway.pid}," in line]
    ports = {story.gateway.port, int(story.gateway.ready["gateway"]["https_port"])}
    assert {line.split()[3] for line in own} == {f"127.0.0.1:{port}" for port in ports}, done.out
    assert tool("ss", "-Hlunp").out.count(f"pid={story.gateway.pid},") == 0
    eventually(lambda: story.gateway.look().verified)
