"""Ctrl-C: what is true of the store and of the target when a command stops half-way.

A command that changes something runs inside `told_by`, whose question is asked after the interrupt: it looks
at what is there, rather than guess. If it cannot be looked at, that is what is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from formats.errors import EoctlError


class Interrupted(Exception):  # noqa: N818  (it is no error)
    """The user stopped the command. `message` says what is true now."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@contextmanager
def told_by(look: Callable[[], str], *, unknown: str, hint: str) -> Iterator[None]:
    """An interrupt inside the context ends in what `look` says; in `unknown` and `hint` if it cannot say."""
    try:
        yield
    except KeyboardInterrupt:
        try:
            raise Interrupted(look()) from None
        except (EoctlError, OSError, KeyboardInterrupt):
            raise Interrupted(unknown, hint) from None
