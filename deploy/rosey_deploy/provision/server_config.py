"""The nats-server configuration of an installation, as an operator keeps and reads it."""

from __future__ import annotations

import json
from pathlib import Path

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
    """

    host: str = "127.0.0.1"
    port: int = 4222
    store: Path
    name: str = "rosey"
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    def check(self) -> None:
        """Raise `InvalidRequest` for certificates that are not there, or half given."""
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequest("TLS needs --tls-cert and --tls-key together.")
        if self.authority is not None and self.certificate is None:
            raise InvalidRequest("--tls-ca needs --tls-cert and --tls-key.")
        for path in (self.certificate, self.key, self.authority):
            if path is not None and not path.is_file():
                raise InvalidRequest(f"There is no file {path}.", hint="TLS takes PEM files.")


def server_config(authority: Authority, options: ServerOptions) -> str:
    """Return the text of the configuration; it holds no secret."""
    trust = authority.trust(options.store / "accounts")
    resolver = trust["resolver"]
    preload = "\n".join(f"  {key}: {token}" for key, token in trust["resolver_preload"].items())
    return f"""\
# nats-server for Rosey's plugin storage, written by `rosey-storage init`. It holds no secret.
#   nats-server --config {options.store.parent / "nats-server.conf"}

server_name: {json.dumps(options.name)}
listen: {json.dumps(f"{options.host}:{options.port}")}
{_tls(options)}
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
