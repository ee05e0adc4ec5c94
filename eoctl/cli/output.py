"""Where answers go. stdout is the answer, stderr everything else.

An answer is text for people, one JSON document (`--json`), or a row to a line (`--jsonl`). In a pipe nothing is
cut and nothing is coloured. Under `--json` and `--jsonl` stderr holds JSON too, one object to a line.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TextIO

from eoctl.cli.table import Column, clean, fields, render
from formats.errors import NoSpaceError, UnavailableError

BOLD, DIM, RED, GREEN, YELLOW, CYAN = "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[33m", "\033[36m"
RESET = "\033[0m"
_USUAL_COLUMNS = 80
_LOST = "what the command did stands; only its report is lost"


class Form(StrEnum):
    """How the answer is spelled."""

    TEXT = "text"
    JSON = "json"
    JSONL = "jsonl"


class Output:
    """One command's answer and what is said beside it."""

    def __init__(
        self, *, form: Form = Form.TEXT, quiet: bool = False, colour: bool = True, columns: int | None = None
    ) -> None:
        self.form = form
        self.quiet = quiet
        self.on_terminal = is_terminal(sys.stdout)
        self.colour_wanted = colour
        self.colour = colour and self.on_terminal
        self.width = (columns or _terminal_columns()) if self.on_terminal else None
        self.ellipsis = "…" if _speaks_unicode(sys.stdout) else "..."

    def answer(
        self,
        schema: str,
        value: Mapping[str, Any],
        text: Callable[[], Iterable[str]],
        *,
        rows: str = "",
        brief: Callable[[], Iterable[str]] | None = None,
    ) -> None:
        """The command's answer, in the form that was asked for.

        `rows`: the field that `--jsonl` prints, an element to a line. `brief`: the lines that `-q` leaves.
        """
        if self.form is Form.JSONL and rows:
            write(f"{to_json(row)}\n" for row in value[rows])
        elif self.form is not Form.TEXT:
            indent = 2 if self.form is Form.JSON and self.on_terminal else None
            write([to_json({"schema": f"eoctl.{schema}/1", **value}, indent), "\n"])
        else:
            lines = brief if self.quiet and brief is not None else text
            write(f"{line}\n" for line in lines())

    def table(self, columns: Sequence[Column]) -> list[str]:
        return render(columns, width=self.width, style=self.colour, ellipsis=self.ellipsis)

    def table_or_notice(self, columns: Sequence[Column], nothing: str) -> list[str]:
        """The table; of no rows nothing, and a notice that says so."""
        if columns[0].cells:
            return self.table(columns)
        if nothing:
            self.notice(nothing)
        return []

    def fields(self, pairs: Iterable[tuple[str, str]]) -> list[str]:
        return fields(pairs, self.width)

    def wrapped(self, text: str) -> list[str]:
        """The lines of a long sentence on a terminal; one line elsewhere."""
        text = clean(text)
        if self.width is None or len(text) <= self.width:
            return [text]
        import textwrap  # noqa: PLC0415  (start-up)

        return textwrap.wrap(text, self.width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)

    def heading(self, text: str) -> str:
        return self.paint(text, BOLD)

    def paint(self, text: str, style: str) -> str:
        return f"{style}{text}{RESET}" if self.colour else text

    def notice(self, text: str, label: str = "notice") -> None:
        """Said on stderr, unless the user wants it quiet."""
        if self.quiet:
            return
        if self.form is Form.TEXT:
            tell(f"{label}: {clean(text)}")
        else:
            tell(to_json({"schema": "eoctl.notice/1", label: text}))


def write(parts: Iterable[str]) -> None:
    """The parts are on stdout, all of them.

    Raises: BrokenPipeError where the reader has gone, NoSpaceError, UnavailableError.
    """
    if sys.stdout is None:
        raise UnavailableError("the answer cannot be written: stdout is closed", hint=_LOST)
    try:
        sys.stdout.write("".join(parts))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        kind = NoSpaceError if error.errno in {errno.ENOSPC, errno.EDQUOT} else UnavailableError
        raise kind(f"the answer cannot be written to stdout: {error.strerror}", hint=_LOST) from error


def tell(line: str) -> None:
    """The line is on stderr, if there is one: who cannot be told is no reason to fail."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:
        return


def to_json(value: Any, indent: int | None = None) -> str:  # noqa: ANN401  (whatever the services answer)
    """JSON in the order of the fields; values of the services by their fields."""
    import json  # noqa: PLC0415  (start-up)

    return json.dumps(value, default=fields_of, ensure_ascii=not _speaks_unicode(sys.stdout), indent=indent)


def fields_of(value: Any) -> dict[str, Any]:  # noqa: ANN401  (any of the services' dataclasses)
    """The fields of a value that a service answered, in their order."""
    return {name: getattr(value, name) for name in value.__struct_fields__}


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _terminal_columns() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _USUAL_COLUMNS
    except (OSError, ValueError):
        return _USUAL_COLUMNS


def _speaks_unicode(stream: TextIO | None) -> bool:
    return stream is not None and (stream.encoding or "").lower().replace("-", "") in {"utf8", "utf8sig"}
