"""How a failure is told: one line and a hint for people, one JSON object for programs, a traceback for bugs."""

from __future__ import annotations

import errno
import platform
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from eoctl.cli import exit_codes
from eoctl.cli.interrupts import Interrupted
from eoctl.cli.output import CYAN, RED, RESET, is_terminal, tell, to_json
from eoctl.cli.table import clean
from eoctl.version import VERSION
from formats.errors import EoctlError

_MAX_CAUSES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is told of a failure."""

    kind: str
    message: str
    exit_code: int
    hint: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    causes: tuple[str, ...] = ()
    trace: str = ""


def report(error: BaseException, argv: list[str]) -> int:
    """The failure has been told on stderr; returns the exit code that goes with it."""
    failure = understand(error)
    if _wanted(argv, "--json", "--jsonl"):
        tell(to_json(_document(failure)))
    else:
        for line in _lines(failure, argv):
            tell(line)
    return failure.exit_code


def understand(error: BaseException) -> Failure:
    """The kind, the sentence and the code of whatever was raised."""
    match error:
        case EoctlError():
            return Failure(
                kind=error.kind,
                message=error.message,
                exit_code=error.exit_code,
                hint=error.hint,
                facts=error.facts,
                causes=_causes(error),
            )
        case Interrupted():
            return _interrupted(error.message, error.hint)
        case KeyboardInterrupt():
            # Commands that change something say themselves what became of it.
            return _interrupted("nothing was changed", None)
        case MemoryError():
            return Failure(
                kind="out-of-memory",
                message="out of memory",
                exit_code=exit_codes.UNAVAILABLE,
                hint="look what was done before a retry: eoctl checkpoint list",
            )
        case OSError(errno=errno.ENOSPC, filename=None):
            return Failure(
                kind="no-space",
                message="the output cannot be written: no space left on its device",
                exit_code=exit_codes.UNAVAILABLE,
            )
    return Failure(
        kind="bug",
        message=f"{type(error).__name__}: {error}",
        exit_code=exit_codes.BUG,
        hint=f"this is a bug, please report it: eoctl {VERSION}, Python {platform.python_version()}",
        trace="".join(traceback.format_exception(error)),
    )


def _interrupted(message: str, hint: str | None) -> Failure:
    return Failure(kind="interrupted", message=message, exit_code=exit_codes.INTERRUPTED, hint=hint)


def _causes(error: EoctlError) -> tuple[str, ...]:
    """What led to the error, nearest first, as far as somebody said so."""
    causes: list[str] = []
    cause = error.__cause__
    while cause is not None and len(causes) < _MAX_CAUSES:
        causes.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    return tuple(causes)


def _document(failure: Failure) -> dict[str, Any]:
    document = {
        "schema": "eoctl.error/1",
        "error": failure.kind,
        "message": failure.message,
        "hint": failure.hint,
        "exit_code": failure.exit_code,
        "facts": dict(failure.facts),
    }
    return document | ({"traceback": failure.trace} if failure.trace else {})


def _lines(failure: Failure, argv: list[str]) -> list[str]:
    import sys  # noqa: PLC0415  (stderr as it is now)

    colour = is_terminal(sys.stderr) and not _wanted(argv, "--no-color") and _colour_allowed()
    lines = failure.trace.splitlines()
    label = "interrupted" if failure.kind == "interrupted" else "error"
    message = clean(failure.message)
    lines.append(f"{RED}{label}:{RESET} {message}" if colour else f"{label}: {message}")
    if _wanted(argv, "-v", "--verbose"):
        lines += [f"because: {clean(cause)}" for cause in failure.causes]
    if failure.hint:
        hint = clean(failure.hint)
        lines.append(f"{CYAN}hint:{RESET} {hint}" if colour else f"hint: {hint}")
    return lines


def _colour_allowed() -> bool:
    from eoctl.cli.settings import read_environment  # noqa: PLC0415  (only where it matters)

    with suppress(EoctlError):
        return not read_environment().no_color
    return False


def _wanted(argv: list[str], *options: str) -> bool:
    """Was an option given? Looked up in the words, because the failure may be that they could not be parsed."""
    words = argv[: argv.index("--")] if "--" in argv else argv
    return any(word in options for word in words)
