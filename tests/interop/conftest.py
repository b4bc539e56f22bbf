"""Contoso's hub for the tests of the SDKs: one for all that leave it alone, one of one's own to kill and cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.azure import Sdk
from support.edge_world import Gateway
from support.node import NodeContoso
from support.processes import Contoso


@pytest.fixture(scope="session")
def contoso(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contoso]:
    """A hub that runs; every test registers devices of its own."""
    with Contoso(tmp_path_factory.mktemp("contoso")) as made:
        yield made


@pytest.fixture(autouse=True)
def no_devices_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Clients end with the test that made them."""
    yield
    for name in {"contoso", "node"} & set(request.fixturenames):
        request.getfixturevalue(name).end_devices()


@pytest.fixture(scope="session")
def node(contoso: Contoso, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeContoso]:
    """The same hub, as clients of the Node SDKs reach it."""
    with NodeContoso(contoso, tmp_path_factory.mktemp("node")) as made:
        yield made


@pytest.fixture(scope="session")
def service(contoso: Contoso, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    """azure-iot-hub for Python with the owner's policy, on localhost and the port that the hub has."""
    made = Sdk(
        "registry",
        contoso.local_connection_string(),
        log=tmp_path_factory.mktemp("registry") / "sdk.log",
        environment={"REQUESTS_CA_BUNDLE": contoso.world.hub.ready["trust_bundle"]},
    )
    yield made
    made.close()


@pytest.fixture
def own_contoso(tmp_path: Path) -> Iterator[Contoso]:
    """A hub of one's own."""
    with Contoso(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def gateway(contoso: Contoso) -> Iterator[Gateway]:
    """EdgeGateway runs, a child of nobody, under Contoso's hub."""
    started = contoso.start_gateway()
    yield started
    started.stop()
