"""TLS and SASL for connections to Kafka, told in the words of confluent-kafka.

security.protocol           PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL
ssl.ca.location             PEM; without it the system's
ssl.certificate.location    PEM of the client, with ssl.key.location and ssl.key.password
sasl.mechanism              PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
sasl.username, sasl.password
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import ssl
from collections.abc import Callable, Mapping

from eoctl.ambient import system_ambient
from formats.errors import AccessDeniedError, UnsupportedError, UsageError

Ask = Callable[[bytes], bytes]  # a step of the mechanism -> the broker's answer
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_KNOWN = {
    "security.protocol",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
    "sasl.mechanism",
    "sasl.username",
    "sasl.password",
}


class Security:
    """How a connection is made safe, and who it says it is. Raises: UsageError, UnsupportedError."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        unknown = sorted(settings.keys() - _KNOWN)
        if unknown:
            raise UsageError(
                f"settings that the Kafka sink does not know: {', '.join(unknown)}",
                hint=f"it knows {', '.join(sorted(_KNOWN))}",
            )
        protocol = settings.get("security.protocol", "PLAINTEXT").upper()
        if protocol not in PROTOCOLS:
            raise UsageError(f"security.protocol is {protocol!r}", hint=f"one of {', '.join(PROTOCOLS)}")
        self.mechanism = settings.get("sasl.mechanism", "").upper() if protocol.startswith("SASL_") else ""
        if protocol.startswith("SASL_") and self.mechanism not in MECHANISMS:
            raise UnsupportedError(f"sasl.mechanism is {self.mechanism!r}", hint=f"one of {', '.join(MECHANISMS)}")
        self._user, self._password = settings.get("sasl.username", ""), settings.get("sasl.password", "")
        self._tls = _tls(settings) if protocol.endswith("SSL") else None

    def wrap(self, connection: socket.socket, host: str) -> socket.socket:
        """The connection, in TLS where that is wanted. Raises: AccessDeniedError, OSError."""
        if self._tls is None:
            return connection
        try:
            return self._tls.wrap_socket(connection, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            message = f"the certificate of {host} is not to be trusted: {error.verify_message}"
            raise AccessDeniedError(message, hint="ssl.ca.location names whom to trust") from error

    def authenticate(self, ask: Ask) -> None:
        """The broker knows who it is. Raises: AccessDeniedError."""
        if self.mechanism == "PLAIN":
            ask(b"\0".join((b"", self._user.encode(), self._password.encode())))
        elif self.mechanism:
            scram(self.mechanism.removeprefix("SCRAM-"), self._user, self._password, system_ambient().new_id(), ask)


def scram(hashed: str, user: str, password: str, nonce: str, ask: Ask) -> None:
    """RFC 5802, without a channel's binding: both sides know the password. Raises: AccessDeniedError."""
    name = hashed.replace("-", "").lower()
    first = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
    answer = ask(b"n,," + first.encode()).decode()
    fields = _fields(answer)
    if not fields.get("r", "").startswith(nonce) or not fields.get("i", "").isdecimal():
        raise AccessDeniedError("the broker does not speak SCRAM as agreed", hint="which sasl.mechanism does it have?")
    last = f"c=biws,r={fields['r']}"
    signed = f"{first},{answer},{last}".encode()
    salted = hashlib.pbkdf2_hmac(name, password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
    key = hmac.digest(salted, b"Client Key", name)
    signature = hmac.digest(hashlib.new(name, key).digest(), signed, name)
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True))).decode()
    verifier = base64.b64decode(_fields(ask(f"{last},p={proof}".encode()).decode()).get("v", ""))
    if not hmac.compare_digest(verifier, hmac.digest(hmac.digest(salted, b"Server Key", name), signed, name)):
        raise AccessDeniedError("the broker does not know the password itself", hint="is it the right broker?")


def _fields(text: str) -> dict[str, str]:
    return {part[0]: part[2:] for part in text.split(",") if part[1:2] == "="}


def _tls(settings: Mapping[str, str]) -> ssl.SSLContext:
    try:
        found = ssl.create_default_context(cafile=settings.get("ssl.ca.location"))
        certificate = settings.get("ssl.certificate.location")
        if certificate is not None:
            found.load_cert_chain(
                certificate, settings.get("ssl.key.location"), password=settings.get("ssl.key.password")
            )
    except OSError as error:
        raise UsageError(f"a file of the ssl settings cannot be used: {error}", hint="PEM files") from error
    return found
