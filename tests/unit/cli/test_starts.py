"""What a command imports before it does anything: half of the time until `up` is ready is import."""

import subprocess
import sys

import pytest

NETWORK = ("aiohttp", "OpenSSL", "structlog", "prometheus_client", "uvloop")
MIGRATIONS = ("alembic", "mako")
OTHER_STORES = ("psycopg", "sqlalchemy.dialects.postgresql", "nats")
ACTORS = ("edgetrust.hub", "edgetrust.ca", "edgetrust.provisioning")


def imported(code: str) -> set[str]:
    """The modules that are there after `code`, in a process of its own."""
    code = f"import sys; from edgetrust.cli.main import load, run; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (
            "load('up'); import edgetrust.cli.running",
            # What only a new database, another database, a token or a gateway needs.
            (
                *MIGRATIONS,
                *OTHER_STORES,
                "pkcs11",
                "markdown_it",
                "edgetrust.device",
                "edgetrust.edge",
                "edgetrust.cli.demo",
            ),
        ),
        ("load('edge'); import edgetrust.edge.gateway", (*MIGRATIONS, *OTHER_STORES, "pkcs11", *ACTORS)),
        ("load('cert')", (*NETWORK, *ACTORS, "sqlalchemy", "edgetrust.device.session", "edgetrust.cli.as_device")),
        ("load('device')", (*ACTORS, "aiohttp", "sqlalchemy")),
        ("load('hub')", (*NETWORK, *ACTORS, "sqlalchemy")),
        ("load('dps')", (*NETWORK, *ACTORS, "sqlalchemy")),
        ("load('monitor')", (*NETWORK, *ACTORS, "sqlalchemy")),
        ("load('deployment')", (*NETWORK, *ACTORS, "sqlalchemy")),
        ("load('explain')", (*NETWORK, "edgetrust.hub", "sqlalchemy")),
    ],
)
def test_a_command_imports_only_what_it_needs(code: str, absent: tuple[str, ...]) -> None:
    modules = imported(code)
    assert "typer" in modules
    assert modules & set(absent) == set()


def test_a_database_of_this_version_needs_no_migrations() -> None:
    code = (
        "import sqlalchemy as s; from edgetrust.store.migrate import HEAD, upgrade;"
        "c = s.create_engine('sqlite://').connect();"
        "c.exec_driver_sql('CREATE TABLE alembic_version (version_num TEXT)');"
        "c.exec_driver_sql('INSERT INTO alembic_version VALUES (?)', (HEAD,)); upgrade(c)"
    )
    modules = imported(code)
    assert "sqlalchemy" in modules
    assert "alembic" not in modules
