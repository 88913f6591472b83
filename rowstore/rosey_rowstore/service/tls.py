"""TLS towards NATS with a certificate authority of one's own, and with a certificate of the service's."""

from __future__ import annotations

import ssl

from rosey_rowstore.protocol import Fault
from rosey_rowstore.settings import ServiceSettings

__all__ = ["tls_context"]


def tls_context(settings: ServiceSettings) -> ssl.SSLContext | None:
    """Return what connections are made with; None for the usual.

    Raises:
        Fault: `invalid_request` for a file that cannot be used.
    """
    ca, cert, key = settings.tls_ca, settings.tls_cert, settings.tls_key
    if ca is None and cert is None and key is None:
        return None
    try:
        context = ssl.create_default_context()
        if ca is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies, and trusts nobody yet
            context.load_verify_locations(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except OSError as error:
        raise Fault(
            "invalid_request",
            f"The files of TLS cannot be used: {error.strerror or error}.",
            path="ROSEY_STORAGE_TLS_CA",
            hint="PEM files, as openssl writes them; the key belongs to the certificate.",
        ) from error
    return context
