"""The nats-server configuration of an installation, as an operator keeps and reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from attrs import frozen

from rosey_deploy.provision.authority import Authority
from rosey_kvstore.errors import InvalidRequest

__all__ = ["ServerOptions", "server_config"]


@frozen(kw_only=True)
class ServerOptions:
    """What an operator decides about the server.

    Attributes:
        host, port: Where it listens.
        store: The folder of its data: streams and accounts.
        name: The server's name in a cluster, and in its log.
        certificate, key: TLS for clients, as PEM files; both or none.
        authority: The certificates by which clients are verified as well; None for none.
        monitor: Where the server answers `/healthz` and its other probes, as `127.0.0.1:8222`.
        routes: `HOST:PORT` of every server of a cluster, this one included; none for a single server.
        route_password: By which the servers of the cluster know each other.
    """

    host: str = "127.0.0.1"
    port: int = 4222
    store: Path
    name: str = "rosey"
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    monitor: str | None = None
    routes: Sequence[str] = ()
    route_password: str = ""

    def check(self) -> None:
        """Raise `InvalidRequest` for certificates that are not there, or half given."""
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequest("TLS needs --tls-cert and --tls-key together.")
        if self.authority is not None and self.certificate is None:
            raise InvalidRequest("--tls-ca needs --tls-cert and --tls-key.")
        for path in (self.certificate, self.key, self.authority):
            if path is not None and not path.is_file():
                raise InvalidRequest(f"There is no file {path}.", hint="TLS takes PEM files.")
        for route in self.routes:
            host, _, port = route.rpartition(":")
            if not (host and port.isdigit() and 0 < int(port) < 65536):
                raise InvalidRequest(f"{route!r} is no route.", path="--route", hint="As nats-1:6222.")
        if self.routes and len(self.routes) < 3:
            raise InvalidRequest(
                "A cluster has three servers at least: two cannot tell which of them is cut off.",
                path="--route",
                hint="Give --route once for each, this one included.",
            )


def server_config(authority: Authority, options: ServerOptions) -> str:
    """Return the text of the configuration; for a cluster it holds a password, otherwise no secret."""
    trust = authority.trust(options.store / "accounts")
    resolver = trust["resolver"]
    preload = "\n".join(f"  {key}: {token}" for key, token in trust["resolver_preload"].items())
    return f"""\
# nats-server for Rosey's plugin storage, written by `rosey-storage init`. {_secrecy(options)}

server_name: {json.dumps(options.name)}
listen: {json.dumps(f"{options.host}:{options.port}")}
{_monitor(options)}{_tls(options)}{_cluster(options)}
jetstream {{
  store_dir: {json.dumps(str(options.store))}
  # Every write is on the disk before it is acknowledged. The server's own two minutes are faster,
  # and a power failure takes what was acknowledged within them.
  sync_interval: always
}}

# Whom this server trusts: accounts signed by this operator.
operator: {trust["operator"]}
system_account: {trust["system_account"]}

# Accounts are pushed here by `rosey-storage apply` while the server runs; no reload.
resolver {{
  type: full
  dir: {json.dumps(resolver["dir"])}
  allow_delete: true
  hard_delete: true
  interval: "{resolver["interval"]}"
}}
resolver_preload {{
{preload}
}}
"""


def _secrecy(options: ServerOptions) -> str:
    return "It holds the routes' password." if options.routes else "It holds no secret."


def _monitor(options: ServerOptions) -> str:
    return "" if options.monitor is None else f"http: {json.dumps(options.monitor)}\n"


def _cluster(options: ServerOptions) -> str:
    if not options.routes:
        return ""
    port = options.routes[0].rpartition(":")[2]
    routes = "\n".join(f"    {json.dumps(_route(options.route_password, route))}" for route in options.routes)
    return f"""
cluster {{
  name: rosey
  listen: {json.dumps(f"{options.host}:{port}")}
  authorization {{ user: rosey, password: {json.dumps(options.route_password)} }}
  # Clients know every server from ROSEY_STORAGE_URL; addresses that only servers reach would mislead them.
  no_advertise: true
  routes: [
{routes}
  ]
}}
"""


def _tls(options: ServerOptions) -> str:
    if options.certificate is None or options.key is None:
        return ""
    lines = [
        f"  cert_file: {json.dumps(str(options.certificate.absolute()))}",
        f"  key_file: {json.dumps(str(options.key.absolute()))}",
    ]
    if options.authority is not None:
        lines += [f"  ca_file: {json.dumps(str(options.authority.absolute()))}", "  verify: true"]
    return "\ntls {\n" + "\n".join(lines) + "\n}\n"


def _route(password: str, route: str) -> str:
    return f"nats://rosey:{quote(password, safe='')}@{route}"
