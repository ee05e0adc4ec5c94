"""Cases that are at fault: what the runner must tell of each."""

from __future__ import annotations

from pathlib import Path

from formats.errors import BadNameError, CorruptError, TooLargeError
from tests.hostile.case import Action, Case


def _raises(error: BaseException) -> Action:
    def action() -> None:
        raise error

    return action


def _grows(_box: Path) -> Action:
    def action() -> None:
        held = bytearray(300 << 20)
        held[::4096] = b"x" * len(held[::4096])
        raise CorruptError("too late")

    return action


def _spins(_box: Path) -> Action:
    def action() -> None:
        while True:
            pass

    return action


def _writes_beside(box: Path) -> Action:
    def action() -> None:
        (box.parent / "escaped").write_bytes(b"x")
        raise CorruptError("after it")

    return action


def _changes_outside(box: Path) -> Action:
    def action() -> None:
        (box.parent / "outside" / "precious").write_bytes(b"x")
        raise CorruptError("after it")

    return action


CASES = [
    Case("control: sound", CorruptError, lambda _: _raises(CorruptError("yes"))),
    Case("control: raises nothing", CorruptError, lambda _: lambda: None),
    Case("control: raises another kind", CorruptError, lambda _: _raises(BadNameError("no"))),
    Case("control: raises where nothing is expected", None, lambda _: _raises(TooLargeError("no"))),
    Case("control: a bug", CorruptError, lambda _: _raises(ValueError("no"))),
    Case("control: out of memory", CorruptError, lambda _: _raises(MemoryError())),
    Case("control: a message that floods", CorruptError, lambda _: _raises(CorruptError("x" * 100_000))),
    Case("control: grows", CorruptError, _grows),
    Case("control: spins", CorruptError, _spins),
    Case("control: writes beside", CorruptError, _writes_beside),
    Case("control: changes outside", CorruptError, _changes_outside),
]
