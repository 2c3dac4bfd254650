"""Failures of TLS that waiting does not help, for whatever opens connections."""

from __future__ import annotations

import aiohttp

__all__ = ["tls_advice"]

# A certificate, or a port that speaks another protocol.
_LASTING = (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)


def tls_advice(error: BaseException) -> str:
    """Return what to do about a failure that does not pass by itself; empty for any other."""
    if isinstance(error, _LASTING):
        return (
            "; the certificate cannot be verified: set SSL_CERT_FILE to the file of your own"
            " certificate authority, or lend a session with ssl="
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError) and "WRONG_VERSION" in str(error):
        return "; the port does not speak TLS: is the URL's scheme http?"
    return ""
