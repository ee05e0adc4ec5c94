"""SCRAM as its RFC has it, and settings that are refused."""

from __future__ import annotations

import pytest

from eoctl.runtime.sinks.kafka_security import Security, scram
from formats.errors import AccessDeniedError, EoctlError

NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = NONCE + "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
ANSWERS = {
    f"n,,n=user,r={NONCE}": f"r={SERVER_NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    f"c=biws,r={SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=": (
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    ),
}


def test_scram_is_that_of_the_rfc() -> None:
    scram("SHA-256", "user", "pencil", NONCE, lambda step: ANSWERS[step.decode()].encode())


@pytest.mark.parametrize(
    ("last", "why"),
    [("v=AAAA", "does not know the password"), ("e=other-error", "does not know the password")],
)
def test_a_broker_that_does_not_know_the_password_is_not_trusted(last: str, why: str) -> None:
    answers = iter((next(iter(ANSWERS.values())), last))
    with pytest.raises(AccessDeniedError, match=why):
        scram("SHA-256", "user", "pencil", NONCE, lambda _: next(answers).encode())


def test_a_nonce_that_is_not_ours_is_refused() -> None:
    with pytest.raises(AccessDeniedError, match="as agreed"):
        scram("SHA-256", "user", "pencil", NONCE, lambda _: b"r=other,s=AAAA,i=1")


def test_a_password_in_plain_is_three_texts() -> None:
    said: list[bytes] = []
    settings = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN", "sasl.username": "ada"}

    def ask(step: bytes) -> bytes:
        said.append(step)
        return b""

    Security({**settings, "sasl.password": "secret"}).authenticate(ask)
    assert said == [b"\0ada\0secret"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"linger.ms": "5"}, "does not know: linger.ms"),
        ({"security.protocol": "SSH"}, "security.protocol is 'SSH'"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "GSSAPI"}, "sasl.mechanism is 'GSSAPI'"),
        ({"security.protocol": "SSL", "ssl.ca.location": "/nowhere"}, "cannot be used"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(settings: dict[str, str], why: str) -> None:
    with pytest.raises(EoctlError, match=why):
        Security(settings)
