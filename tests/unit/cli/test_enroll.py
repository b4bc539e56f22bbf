"""`device enroll`, `device renew`, `cert status`, `cert needs-renewal`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from support.est_server import Served
from support.pki import Pki

from .conftest import Outcome


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.stop()


def test_enroll_then_renew_needs_to_be_told_nothing(
    edgetrust: Callable[..., Outcome], served: Served, tmp_path: Path
) -> None:
    into = tmp_path / "sensor"
    first = edgetrust("device", "enroll", "sensor", "--into", into, *served.options, "--json")
    assert first.code == 0, first.err
    assert first.json()["subject"] == "CN=sensor"
    assert Path(first.json()["certificate"]).read_text().count("BEGIN CERTIFICATE") == 3

    early = edgetrust("device", "renew", into)
    assert (early.code, len(served.est.asked)) == (0, 1)
    assert "not due before" in early.err

    renewed = edgetrust("device", "renew", into, "--force", "--json")
    assert renewed.code == 0, renewed.err
    assert renewed.json()["thumbprint"] != first.json()["thumbprint"]
    assert [one.client for one in served.est.asked] == ["CN=bootstrap", "CN=sensor"]


def test_through_a_gateway_the_name_is_verified_and_the_place_is_kept(
    edgetrust: Callable[..., Outcome], served: Served, tmp_path: Path
) -> None:
    into, here = tmp_path / "sensor", served.est.url.split("/")[2]
    nowhere = "https://localhost:1/.well-known/est"
    options = [nowhere if one == served.est.url else one for one in served.options]
    assert nowhere in options
    away = edgetrust("device", "enroll", "sensor", "--into", into, *options)
    assert (away.code, "cannot be reached" in away.err) == (3, True)
    done = edgetrust("device", "enroll", "sensor", "--into", into, *options, "--through", here)
    assert done.code == 0, done.err
    assert edgetrust("device", "renew", into, "--force").code == 0
    options[options.index(nowhere)] = "https://other.example/.well-known/est"
    refused = edgetrust("device", "enroll", "sensor", "--into", into, *options, "--through", here)
    assert (refused.code, f"let {here.partition(':')[0]} pass this name on" in refused.err) == (1, True)
    wrong = edgetrust("device", "enroll", "sensor", "--into", into, *options, "--through", "h:x")
    assert wrong.code == 2


def test_status_says_what_is_left_and_what_went_wrong(
    edgetrust: Callable[..., Outcome], served: Served, tmp_path: Path
) -> None:
    into = tmp_path / "sensor"
    edgetrust("device", "enroll", "sensor", "--into", into, *served.options)
    served.est.answer = lambda: web.Response(status=403, text="blocked")
    refused = edgetrust("device", "renew", into, "--force")
    assert (refused.code, "blocked" in refused.err) == (1, True)

    shown = edgetrust("cert", "status", into)
    assert shown.code == 0, shown.err
    for part in ("sensor  CN=sensor", "[", "R", "% used", "23 h", "next ", "est-not-authorized", "1 in a row"):
        assert part in shown.out
    [entry] = edgetrust("cert", "status", into, "--json").json()
    assert (entry["failures"], entry["renewsItself"]) == (1, True)
    assert 0.9 < entry["daysLeft"] <= 1
    assert entry["nextRenewal"] > datetime.now(UTC).isoformat()


def test_a_server_that_wants_to_wait_is_exit_code_3(
    edgetrust: Callable[..., Outcome], served: Served, tmp_path: Path
) -> None:
    served.est.answer = lambda: web.Response(status=202, headers={"Retry-After": "60"})
    outcome = edgetrust("device", "enroll", "sensor", "--into", tmp_path / "sensor", *served.options)
    assert (outcome.code, "waits for a decision" in outcome.err) == (3, True)
    served.est.answer = lambda: None
    assert edgetrust("device", "renew", tmp_path / "sensor").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("device", "enroll", "s", "--into", "{dir}/x"), 2, "no EST server was named"),
        (("device", "enroll", "s", "--into", "{dir}/x", "--est", "http://est/"), 2, "no address of an EST server"),
        (("device", "enroll", "s", "--into", "{dir}/x", "--est", "https://e/", "--threshold", "60m"), 2, "no period"),
        (("device", "enroll", "s", "--into", "{dir}/x", "--est", "https://e/", "--bootstrap-key", "k"), 2, "belong"),
        (("device", "enroll", "s", "--into", "{dir}/x", "--est", "https://e/", "--gateway", "g"), 2, "need --hub"),
        (("device", "enroll", "s", "--into", "{dir}/x", "--est", "https://e/"), 2, "neither a bootstrap certificate"),
        (("device", "renew", "{dir}/nothing"), 2, "nothing was enrolled"),
        (("cert", "status", "{dir}/nothing"), 2, "cannot be read"),
        (("cert", "status", "{dir}"), 3, "no gateway runs here"),
    ],
)
def test_mistakes(
    edgetrust: Callable[..., Outcome], tmp_path: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    outcome = edgetrust(*(argument.format(dir=tmp_path) for argument in arguments))
    assert outcome.code == code
    assert text in outcome.err


def test_needs_renewal_answers_by_its_exit_code(edgetrust: Callable[..., Outcome], tmp_path: Path) -> None:
    pki, file = Pki(datetime.now(UTC)), tmp_path / "c.pem"
    file.write_text(pki.device(begin=timedelta(0), end=timedelta(days=30)).chain.pem())
    assert edgetrust("cert", "needs-renewal", file).code == 0
    assert edgetrust("cert", "needs-renewal", file, "--threshold", "40 day").code == 1
    assert edgetrust("cert", "needs-renewal", tmp_path / "missing.pem").code == 2
    file.write_text(pki.device(begin=timedelta(days=-30), end=timedelta(days=3)).chain.pem())
    outcome = edgetrust("cert", "needs-renewal", file, "--json")
    assert (outcome.code, json.loads(outcome.out)["needsRenewal"]) == (1, True)
