"""TLS with a certificate authority of one's own, and with a certificate of the client's."""

from __future__ import annotations

import ssl
from pathlib import Path

from attrs import frozen

from rosey_kvstore.errors import InvalidRequest

__all__ = ["TlsFiles"]


@frozen(kw_only=True)
class TlsFiles:
    """PEM files; none of them where servers' certificates are signed by an authority that the system knows.

    Attributes:
        ca: The authorities that sign servers' certificates, in place of the system's.
        cert, key: Who this client is, for servers that ask.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def variables(self) -> dict[str, str]:
        """Return the files as the settings that name them, with absolute paths."""
        given = {"CA": self.ca, "CERT": self.cert, "KEY": self.key}
        return {f"ROSEY_STORAGE_TLS_{name}": str(path.absolute()) for name, path in given.items() if path}

    def context(self) -> ssl.SSLContext | None:
        """Return what a connection is made with; None for the usual.

        Raises:
            InvalidRequest: A file is missing or holds something else.
        """
        if self == TlsFiles():
            return None
        if (self.cert is None) != (self.key is None):
            raise InvalidRequest("A client's certificate needs its key, and the key its certificate.")
        context = ssl.create_default_context()
        if self.ca is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and trusts nobody yet
            try:
                context.load_verify_locations(cafile=self.ca)
            except OSError as error:
                raise _unusable(self.ca, "ROSEY_STORAGE_TLS_CA", error) from error
        if self.cert is not None and self.key is not None:
            try:
                context.load_cert_chain(self.cert, self.key)
            except OSError as error:
                raise _unusable(self.cert, "ROSEY_STORAGE_TLS_CERT", error) from error
        return context


def _unusable(path: Path, setting: str, error: OSError) -> InvalidRequest:
    return InvalidRequest(
        f"{path} cannot be used for TLS: {error.strerror or error}.",
        path=setting,
        hint="PEM files, as openssl writes them; the key belongs to the certificate.",
    )
