"""`eoctl doctor`: what could harm the store where it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from eoctl.cli.exit_codes import ANSWER_NO
from eoctl.cli.invocation import invocation_of
from eoctl.cli.output import GREEN, RED, YELLOW, Output, fields_of

if TYPE_CHECKING:
    from eoctl.services.doctor import Examination

app = typer.Typer()
_COLOURS = {"ok": GREEN, "warning": YELLOW, "bad": RED, "unknown": YELLOW}
_WIDTH = 9


@app.command("doctor")
def doctor(ctx: typer.Context) -> None:
    """Look for what could harm the store where it is.

    On S3: credentials, bucket and region, the clock, conditional writes, checksums, lifecycle rules that would delete
    blobs, versioning, uploads that never finished. On disk: the file system, its locks, links and fsync, space. What is
    tried is tried on values of its own, which are gone afterwards; nothing of the store is changed.

    Exit 3: something is bad. A warning, or what could not be looked at, is told and does not count.

    Example:
        eoctl doctor --store 's3://bucket/prefix?region=eu-central-1'
        eoctl doctor --json
    """
    from eoctl.services.doctor import examine  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    found = examine(invocation.place(invocation.choose()), invocation.ambient)
    out = invocation.out
    out.answer("doctor", fields_of(found), lambda: _lines(found, out), rows="checks", brief=lambda: _brief(found))
    if not found.ok:
        raise typer.Exit(ANSWER_NO)


def _lines(found: Examination, out: Output) -> Iterator[str]:
    for one in found.checks:
        state = one.state.value
        first, *rest = out.wrapped(f"{state:{_WIDTH}}{one.check}: {one.found}")
        yield out.paint(state, _COLOURS[state]) + first.removeprefix(state)
        yield from rest
        if one.fix and state != "ok":
            yield from out.wrapped(f"{'':{_WIDTH}}fix: {one.fix}")


def _brief(found: Examination) -> Iterator[str]:
    """What is not as it should be."""
    return (f"{one.check}: {one.found}" for one in found.checks if one.state.value != "ok")
