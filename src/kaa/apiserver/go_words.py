"""Failed connections, in the words of Go's clients: users look for these words, and tools compare them.

Source: Go net, crypto/tls, crypto/x509, net/http.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl

from kaa.client.connection import Broken

_UNKNOWN_AUTHORITY = frozenset({2, 7, 18, 19, 20, 21})  # OpenSSL's X509_V_ERR_*: no path to a trusted certificate
_OUT_OF_TIME = frozenset({9, 10})
_OTHER_NAME = frozenset({62, 64})


def go_words(error: Exception, host: str, port: int, name: str) -> str:
    """What Go's HTTP client says of a failure. ``host`` and ``port`` were dialled, ``name`` is the server's."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    match error:
        case TimeoutError():
            return "context deadline exceeded"
        case ssl.SSLError():
            return _tls_words(error, name)
        case Broken():
            return "EOF"
        case socket.gaierror():
            return f"dial tcp: lookup {host}: no such host"
        case ConnectionResetError():
            return f"read tcp {shown}: read: connection reset by peer"
        case OSError(errno=int(number)) if number in errno.errorcode:
            return f"dial tcp {shown}: connect: {os.strerror(number).lower()}"
    return str(error) or type(error).__name__


def _tls_words(error: ssl.SSLError, name: str) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return "tls: first record does not look like a TLS handshake"
        return f"remote error: tls: {(error.reason or str(error)).lower().replace('_', ' ')}"
    code = error.verify_code
    if code in _UNKNOWN_AUTHORITY:
        problem = "certificate signed by unknown authority"
    elif code in _OUT_OF_TIME:
        problem = "certificate has expired or is not yet valid"
    elif code in _OTHER_NAME:
        problem = f"certificate is not valid for {name}"
    else:
        problem = error.verify_message
    return f"tls: failed to verify certificate: x509: {problem}"
