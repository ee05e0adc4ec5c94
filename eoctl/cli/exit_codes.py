"""Exit codes: what scripts may rely on. A code is never given another meaning.

The kinds of error are those of `formats/errors.py`, and of the storage classes that narrow them; `kind` is
what `--json` prints as `error`. Rules: one code for each thing that a caller would do next.
"""

from __future__ import annotations

from typing import NamedTuple


class ExitCode(NamedTuple):
    """One promised code, the kinds of error that end in it, and what to do then."""

    code: int
    kinds: tuple[str, ...]
    meaning: str
    then: str


EXIT_CODES = (
    ExitCode(0, (), "done", ""),
    ExitCode(1, ("bug", "error", "key-absent", "version-mismatch"), "a bug in eoctl", "report it, with the traceback"),
    ExitCode(2, ("usage",), "the command or a setting is wrong", "fix it"),
    ExitCode(3, ("answer-no",), "the answer is no: damaged, different, over a limit", "read the report"),
    ExitCode(10, ("store-not-found",), "there is no store at this URL", "fix the URL"),
    ExitCode(11, ("snapshot-not-found",), "no such pipeline or snapshot", "list, then choose another"),
    ExitCode(
        12,
        ("conflict", "fenced", "session-expired", "below-floor", "reuse-lost", "poisoned-name"),
        "somebody else won",
        "read again, or stop",
    ),
    ExitCode(
        13,
        ("corrupt", "blob-gone", "wrong-store"),
        "stored bytes are damaged or gone; they are never served",
        "restore another snapshot; run verify",
    ),
    ExitCode(
        14, ("unsupported", "unsafe-backend"), "a version or feature that is not known here", "upgrade, or convert"
    ),
    ExitCode(15, ("incompatible", "bad-remap"), "the state does not fit", "give a mapping"),
    ExitCode(
        16,
        (
            "unavailable",
            "busy",
            "source-changed",
            "no-space",
            "sync-failed",
            "outcome-unknown",
            "commit-unknown",
            "out-of-memory",
        ),
        "it did not happen, or nobody knows (outcome-unknown, commit-unknown)",
        "retry; where the outcome is unknown, list first",
    ),
    ExitCode(
        17,
        ("invalid-input", "bad-name", "name-clash", "bad-manifest", "too-large", "bomb"),
        "input that cannot be trusted; nothing of it was taken in",
        "fix the input",
    ),
    ExitCode(18, ("access-denied",), "credentials or permissions do not allow it", "fix them"),
    ExitCode(130, ("interrupted",), "interrupted by Ctrl-C", ""),
    ExitCode(141, (), "the reader of the output closed its end", ""),
)

DONE, BUG, USAGE, ANSWER_NO, UNAVAILABLE, INTERRUPTED, READER_GONE = 0, 1, 2, 3, 16, 130, 141
