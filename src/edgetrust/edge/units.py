"""systemd units, users and directories of a gateway whose services are processes of their own.

Rules. Each service has a user of its own, a socket that systemd opens, a directory that only it may enter, and no
rights beyond its task: the key service has no network at all. Groups decide who reaches which socket, the principals
of the services what may be asked there. The configuration stays root's; systemd hands each service a copy. Source:
edge specification 0.1, 0.4; systemd.exec(5), systemd.socket(5), sysusers.d(5).
"""

from __future__ import annotations

from dataclasses import dataclass

_HARDENED = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
PrivateTmp=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077
"""
_ONLINE = "Wants=network-online.target\n"


@dataclass(frozen=True, slots=True)
class _Service:
    name: str
    what: str
    user: str
    needs: tuple[str, ...]
    state: str
    more: str
    socket: bool = True


_SERVICES = (
    _Service(
        "keyd",
        "Keys of the edge gateway",
        "aziotks",
        (),
        "aziot/keyd",
        # no network; devices only for a TPM or HSM, which add their group with a drop-in
        "PrivateNetwork=yes\nRestrictAddressFamilies=AF_UNIX\nCapabilityBoundingSet=\n",
    ),
    _Service(
        "certd",
        "Certificates of the edge gateway",
        "aziotcs",
        ("keyd",),
        "aziot/certd",
        "PrivateDevices=yes\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\nCapabilityBoundingSet=\n",
    ),
    _Service(
        "identityd",
        "Identities of the edge gateway",
        "aziotid",
        ("keyd", "certd"),
        "aziot/identityd",
        "PrivateDevices=yes\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\nCapabilityBoundingSet=\n",
    ),
    _Service(
        "edged",
        "Edge gateway and module runtime",
        "iotedge",
        ("keyd", "certd", "identityd"),
        "edgetrust aziot/edged",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nRuntimeDirectory=iotedge\n",
        socket=False,
    ),
)


def unit_files(program: str) -> dict[str, str]:
    """Every file by its path below `/etc`. `program` is the absolute path of `edgetrust`."""
    files = {f"systemd/system/aziot-{one.name}.service": _service(one, program) for one in _SERVICES}
    files |= {f"systemd/system/aziot-{one.name}.socket": _socket(one) for one in _SERVICES if one.socket}
    files["sysusers.d/edgetrust-edge.conf"] = _users()
    files["tmpfiles.d/edgetrust-edge.conf"] = _directories()
    return files


def _service(one: _Service, program: str) -> str:
    sockets = " ".join(f"aziot-{name}.socket" for name in (*one.needs, *([one.name] if one.socket else [])))
    wants, after = ("", sockets) if one.name == "keyd" else (_ONLINE, f"{sockets} network-online.target")
    return f"""\
[Unit]
Description={one.what}
Requires={sockets}
After={after}
{wants}
[Service]
Type=notify
NotifyAccess=main
ExecStart={program} edge {one.name} --config ${{CREDENTIALS_DIRECTORY}}/config.toml --json
LoadCredential=config.toml:/etc/aziot/config.toml
User={one.user}
Group={one.user}
Restart=on-failure
RestartSec=5s
StateDirectory={one.state}
StateDirectoryMode=0700
TimeoutStartSec=infinity
{_HARDENED}{one.more}
[Install]
WantedBy=multi-user.target
"""


def _socket(one: _Service) -> str:
    return f"""\
[Unit]
Description={one.what}: socket

[Socket]
ListenStream=/run/aziot/{one.name}.sock
SocketUser={one.user}
SocketGroup={one.user}
SocketMode=0660
DirectoryMode=0755
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""


def _users() -> str:
    users = [f'u {one.user} - "{one.what}" /var/lib/{one.state.split()[0]}\n' for one in _SERVICES]
    of = {one.name: one.user for one in _SERVICES}
    members = [f"m {one.user} {of[need]}\n" for one in _SERVICES for need in one.needs]
    return "".join([*users, *members])


def _directories() -> str:
    return """\
d /etc/aziot 0755 root root
d /run/aziot 0755 root root
d /var/lib/aziot 0755 root root
d /var/aziot 0755 root root
d /var/aziot/certs 0755 aziotcs aziotcs
d /var/aziot/secrets 0700 aziotks aziotks
z /var/aziot/certs/* 0644 aziotcs aziotcs
z /var/aziot/secrets/* 0600 aziotks aziotks
"""
