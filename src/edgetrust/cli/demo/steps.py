"""The lines of the story, in the order of the article: each states something and returns the evidence, or raises.

Evidence comes from outside wherever the article has it so: `openssl s_client` and `openssl x509` look at certificates,
separate processes are the devices, the gateway's own log says why somebody was refused.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from edgetrust.cli.demo.processes import Finished, NotShownError, edgetrust, run, wait_for
from edgetrust.cli.demo.scene import (
    ADDRESS,
    CONTROLLER_ID,
    GATEWAY_NAME,
    HUB_NAME,
    WAIT_SECONDS,
    Scene,
    cut_off,
)
from edgetrust.cli.demo_pki import CA_SENSOR_ID, GATEWAY_ID, SENSOR_ID, Material

_CUT_READINGS = 6  # sent while the hub is away, half of them before the gateway is killed, half after
_DEPTH = re.compile(r"^depth=(\d+) (?:.*, )?CN = (.+)$", re.MULTILINE)
_ALERT = re.compile(r"alert ([a-z ]+):")


# The hub and the gateway --------------------------------------------------------------------------------------------


def hub_chain(scene: Scene) -> str:
    port = scene.hub_ready["hub"]["mqtt_port"]
    seen = s_client(f"{HUB_NAME}:{port}", scene.hub_root, HUB_NAME)
    return f"{chain_seen(seen)}; Verify return code: 0 (ok)"


def thumbprint_in_registry(scene: Scene) -> str:
    identity = _identity_file(scene)
    printed = run("openssl", "x509", "-in", identity, "-noout", "-fingerprint", "-sha256").out.strip()
    registered = scene.at_hub("device", "show", GATEWAY_ID)["authentication"]["x509Thumbprint"]["primaryThumbprint"]
    if printed.partition("=")[2].replace(":", "") != registered:
        raise NotShownError(f"openssl says {printed}, the registry {registered}", reason="demo-thumbprint")
    connected = wait_for("connection of the gateway", lambda: _upstream(scene), WAIT_SECONDS, scene.gateway)
    return f"{printed} is what the hub has for {GATEWAY_ID}, which is {connected}"


def second_thumbprint(scene: Scene) -> str:
    assert scene.controller is not None
    first, second = scene.controller
    ends = first.chain.end_entity.not_valid_after_utc
    left = max(0.0, ends.timestamp() - time.time()) + 1.0
    if not scene.controller_first.startswith("accepted"):
        raise NotShownError(f"the first certificate was not accepted: {scene.controller_first}", reason="demo-refused")
    scene.told(f"waiting {left:.0f} s for a certificate to expire")
    time.sleep(left)
    after = edgetrust("device", "send", *scene.straight(CONTROLLER_ID, first))
    reason = _hub_refusal(scene, CONTROLLER_ID)
    other = edgetrust("device", "send", *scene.straight(CONTROLLER_ID, second))
    if after.code == 0 or reason != "certificate-expired" or other.code != 0:
        raise NotShownError(
            f"first certificate after its end: {reason or 'accepted'}; second: {other.error}", reason="demo-rotation"
        )
    return (
        f"first {scene.controller_first}, its end is {ends:%H:%M:%S}, then {reason}; second accepted, nothing changed"
    )


def gateway_chain(scene: Scene) -> str:
    seen = s_client(f"{ADDRESS}:{scene.gateway_port}", scene.root, GATEWAY_NAME)
    depth = len(set(_DEPTH.findall(seen.out + seen.err)))
    if depth != 4:  # noqa: PLR2004  (the article's chain of four)
        raise NotShownError(f"{depth} certificates: {chain_seen(seen)}", reason="demo-chain")
    return chain_seen(seen)


def name_matches(scene: Scene) -> str:
    s_client(f"{ADDRESS}:{scene.gateway_port}", scene.root, GATEWAY_NAME)
    leaf = run(
        *("openssl", "x509", "-in", _server_file(scene), "-noout", "-checkhost", GATEWAY_NAME, "-subject"),
        *("-ext", "subjectAltName"),
    ).out
    names = ", ".join(line.strip() for line in leaf.splitlines() if "DNS:" in line)
    return f"openssl s_client -verify_hostname {GATEWAY_NAME}: ok; the certificate has {names}"


def other_name_refused(scene: Scene) -> str:
    assert scene.gateway is not None
    first, since = scene.pki.sensor[0], len(scene.gateway.logged())
    other = "othergateway.local"
    way = scene.through_gateway(SENSOR_ID, first.certificate_file, first.key_file, other)
    tried = edgetrust("device", "send", *way)
    seen = s_client(f"{ADDRESS}:{scene.gateway_port}", scene.root, other, verified=False)
    if tried.code != 1 or "Verification error: hostname mismatch" not in seen.out:
        raise NotShownError(f"{other} was accepted", reason="demo-accepted")
    if scene.gateway.events("connection.refused", since):
        raise NotShownError("a CONNECT reached the gateway", reason="demo-connect-sent")
    return f"{tried.error}; no CONNECT was sent; openssl: hostname mismatch"


# The sensor ---------------------------------------------------------------------------------------------------------


def sensor_accepted(scene: Scene) -> str:
    scene.start_sensor()
    took = scene.send(3)
    first = scene.pki.sensor[0].chain.thumbprint()
    return (
        f"thumbprint {first.hex()[:16]}... is registered; 3 readings acknowledged, the slowest in {took * 1000:.0f} ms"
    )


def ca_sensor_accepted(scene: Scene) -> str:
    by_ca = scene.pki.ca_sensor
    sent = edgetrust(
        *("device", "send", *scene.through_gateway(CA_SENSOR_ID, by_ca.certificate_file, by_ca.key_file)),
        *("--message", '{"humidity": 40}'),
    )
    if sent.code != 0:
        raise NotShownError(sent.error, reason="demo-refused")
    arrived = scene.at_hub_lines("--device", CA_SENSOR_ID, "--count", "1")
    kind = scene.at_hub("device", "show", CA_SENSOR_ID)["authentication"]["type"]
    return f"registered as {kind} without any certificate; at the hub: {arrived[0]['bodyText']}"


def telemetry_at_hub(scene: Scene) -> str:
    arrived = scene.at_hub_lines("--device", SENSOR_ID, "--count", str(scene.sent))
    last = arrived[-1]
    return f"edgetrust monitor: #{last['offset']} {last['device']} {last['bodyText']}, enqueued {last['enqueuedAt']}"


# Five intruders -----------------------------------------------------------------------------------------------------


def unknown_certificate(scene: Scene) -> str:
    other = _bad(scene, "other-key")
    return scene.refused(
        *(SENSOR_ID, other.certificate_file, other.key_file),
        *("thumbprint-unknown-subject-known", "thumbprint-mismatch"),
    )


def copied_certificate(scene: Scene) -> str:
    assert scene.gateway is not None
    since = len(scene.gateway.logged())
    certificate = scene.pki.sensor[0].certificate_file
    seen = run(
        *("openssl", "s_client", "-connect", f"{ADDRESS}:{scene.gateway_port}", "-CAfile", scene.root),
        *("-cert", certificate, "-key", scene.forged_key, "-servername", GATEWAY_NAME),
    )
    entry = scene.refusal("tls.handshake_failed", since)
    if scene.gateway.events("connection.refused", since):
        raise NotShownError("TLS was completed with a forged key", reason="demo-accepted")
    alert = _ALERT.search(seen.err + seen.out)
    return f"no key, no TLS: {entry['reason']}: {entry['detail']}; openssl: {alert[1] if alert else 'cut off'}"


def expired_certificate(scene: Scene) -> str:
    expired = _bad(scene, "expired")
    return scene.refused(CA_SENSOR_ID, expired.certificate_file, expired.key_file, "certificate-expired")


def not_a_child(scene: Scene) -> str:
    assert scene.controller is not None
    stranger = scene.controller[1]
    return scene.refused(CONTROLLER_ID, stranger.certificate_file, stranger.key_file, "not-a-child")


def another_ca(scene: Scene) -> str:
    other = _bad(scene, "other-root")
    reasons = ("chain-untrusted", "chain-intermediate-missing", "chain-broken")
    return scene.refused(CA_SENSOR_ID, other.certificate_file, other.key_file, *reasons)


# Without the hub ----------------------------------------------------------------------------------------------------


def accepted_from_copy(scene: Scene) -> str:
    scene.stop_sensor()
    cut_off(scene)
    scene.start_sensor()
    took = scene.send(_CUT_READINGS // 2)
    return (
        f"hub process killed; TempSensor connected anew and sent {_CUT_READINGS // 2} readings, "
        f"acknowledged within {took * 1000:.0f} ms"
    )


def copy_survives_restart(scene: Scene) -> str:
    assert scene.gateway is not None
    scene.stop_sensor()
    scene.kill_gateway()
    scene.start_gateway()
    scene.start_sensor()
    scene.send(_CUT_READINGS - _CUT_READINGS // 2)
    waiting = wait_for(f"{_CUT_READINGS} messages in the queue", lambda: _waiting(scene), WAIT_SECONDS, scene.gateway)
    return f"gateway killed (SIGKILL) and started without a hub: TempSensor accepted again, {waiting} messages kept"


def unknown_without_hub(scene: Scene) -> str:
    assert scene.controller is not None
    stranger = scene.controller[1]
    reasons = ("registry-unavailable", "not-a-child", "unknown-identity")
    return scene.refused("GhostSensor", stranger.certificate_file, stranger.key_file, *reasons)


def delivered_in_order(scene: Scene) -> str:
    scene.told("starting the hub again")
    scene.start_hub()
    arrived = scene.at_hub_lines("--device", SENSOR_ID, "--count", str(scene.sent))
    numbers = [int(re.search(r'"sequence": (\d+)', line["bodyText"])[1]) for line in arrived]  # type: ignore[index]
    distinct = list(dict.fromkeys(numbers))
    if distinct != list(range(1, scene.sent + 1)):
        raise NotShownError(f"at the hub: {numbers}", reason="demo-lost")
    twice = len(numbers) - len(distinct)
    return f"readings 1 to {scene.sent} at the hub, in order, none missing, {twice or 'none'} twice"


def disabled_is_cut(scene: Scene) -> str:
    assert scene.gateway is not None
    scene.stop_sensor()
    first = scene.pki.sensor[0]
    way = scene.through_gateway(SENSOR_ID, first.certificate_file, first.key_file)
    listener = scene.processes.start("listener", "device", "listen", *way, "--give-up", "20")
    wait_for("connection", lambda: "connected" in listener.messages() or None, WAIT_SECONDS, listener)
    since = len(scene.gateway.logged())
    began = time.monotonic()
    scene.at_hub("device", "disable", SENSOR_ID, "--why", "stolen")
    wait_for("end of the connection", lambda: None if listener.alive else True, WAIT_SECONDS)
    took = time.monotonic() - began
    entry = scene.refusal("connection.refused", since, identity=SENSOR_ID)
    if entry["reason"] not in ("disabled", "not-a-child"):
        raise NotShownError(f"refused for {entry['reason']}", reason="demo-other-reason")
    return f"connection cut and refused within {took:.1f} s; recorded: {entry['reason']}: {entry['detail']}"


# Parts --------------------------------------------------------------------------------------------------------------


def s_client(address: str, root: Path, name: str, *, verified: bool = True) -> Finished:
    """What `openssl s_client` sees at an address. Raises NotShownError unless it verified chain and name."""
    seen = run(
        *("openssl", "s_client", "-connect", address, "-CAfile", root, "-servername", name),
        *("-verify_hostname", name, "-showcerts"),
    )
    if verified and "Verify return code: 0 (ok)" not in seen.out:
        lines = [line.strip() for line in (seen.out + seen.err).splitlines() if "erif" in line or "error" in line]
        raise NotShownError(f"openssl s_client: {'; '.join(lines[-2:]) or seen.error}", reason="demo-openssl")
    return seen


def chain_seen(seen: Finished) -> str:
    """The verified chain, as `depth=N CN = ...` lines told it, the end entity last."""
    by_depth = {int(depth): name for depth, name in _DEPTH.findall(seen.out + seen.err)}
    return " > ".join(f"{depth} {by_depth[depth]}" for depth in sorted(by_depth, reverse=True))


def _bad(scene: Scene, name: str) -> Material:
    return next(bad.material for bad in scene.pki.bad if bad.name == name)


def _identity_file(scene: Scene) -> Path:
    """The gateway's own copy of its identity certificate, as the article finds it, or the file of its configuration."""
    kept = sorted((scene.gateway_root / "var/lib/aziot/certd/certs").glob("deviceid-*.cer"))
    return kept[0] if kept else scene.pki.gateway[0].certificate_file


def _server_file(scene: Scene) -> Path:
    return next((scene.gateway_root / "var/lib/aziot/certd/certs").glob("aziotedgedmoduleedgeHub*server-*.cer"))


def _upstream(scene: Scene) -> str | None:
    return "connected to the hub with it" if scene.status()["upstream"]["connected"] else None


def _waiting(scene: Scene) -> int | None:
    """How many messages the gateway keeps, once there are all of those that were sent without the hub."""
    kept = int(scene.status()["queue"]["messages"])
    return kept if kept >= _CUT_READINGS else None


def _hub_refusal(scene: Scene, device: str) -> str:
    refusals = scene.at_hub("refusals", "--limit", "10")
    return next((str(one["reason"]) for one in refusals if one["identity"] == device), "")
