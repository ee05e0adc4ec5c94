"""Tables for people: columns that fit the terminal, or, where nobody looks at a width, columns as wide as they are.

To fit, in this order: columns that may go, short titles, short forms of cells, one space between columns instead
of two, and last the middle of long names. A number is never cut. (rich renders tables too, but costs 35 ms at
every start.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from types import MappingProxyType
from typing import NamedTuple

_LEAST = 8


class Column(NamedTuple):
    """One column. `short`: title and cells to use where space is scarce; `least`: cells may be cut to that width.

    `optional`: the column may be left out where space is scarce. `styles`: cell text -> style, for a terminal.
    """

    title: str
    cells: Sequence[str]
    right: bool = False
    short_title: str = ""
    short: Sequence[str] | None = None
    least: int | None = None
    optional: bool = False
    styles: Mapping[str, str] = MappingProxyType({})


def render(columns: Sequence[Column], *, width: int | None, style: bool = False, ellipsis: str = "…") -> list[str]:
    """Lines of the table, the titles first. `width` None: whatever it takes."""
    shown = [_Shown(column) for column in columns]
    gap = 2
    if width is not None and _total(shown, gap) > width:
        for column in reversed(columns):
            if column.optional and _total(shown, gap) > width:
                shown = [part for part in shown if part.column is not column]
        if _total(shown, gap) > width:
            for part in shown:
                part.shorten_title()
        for part in shown:
            if _total(shown, gap) > width:
                part.shorten_cells()
        gap = 2 if _total(shown, gap) <= width else 1
        _cut(shown, width - gap * (len(shown) - 1), ellipsis)
    spacer = " " * gap
    header = spacer.join(_pad(part.title, part.width, right=part.column.right) for part in shown).rstrip()
    lines = [f"\033[1m{header}\033[0m" if style else header]
    padded = [part.padded(style=style) for part in shown]
    lines += [spacer.join(cells).rstrip() for cells in zip(*padded, strict=True)]
    return lines


class _Shown:
    """A column as it will be shown."""

    def __init__(self, column: Column) -> None:
        self.column = column
        self._show(column.title, column.cells)

    def shorten_title(self) -> None:
        self._show(self.column.short_title or self.title, self.cells)

    def shorten_cells(self) -> None:
        self._show(self.title, self.cells if self.column.short is None else self.column.short)

    def cut(self, width: int, ellipsis: str) -> None:
        self._show(cut_middle(self.title, width, ellipsis), [cut_middle(cell, width, ellipsis) for cell in self.cells])

    def padded(self, *, style: bool) -> list[str]:
        if self._plain:
            pad = str.rjust if self.column.right else str.ljust
            cells = [pad(cell, self.width) for cell in self.cells]
        else:
            cells = [_pad(cell, self.width, right=self.column.right) for cell in self.cells]
        styles = self.column.styles
        if style and styles:
            pairs = zip(self.cells, cells, strict=True)
            cells = [f"{styles[cell]}{text}\033[0m" if cell in styles else text for cell, text in pairs]
        return cells

    def _show(self, title: str, cells: Sequence[str]) -> None:
        text = "".join(cells)
        # Nearly always; and asking once for a column is ten times as fast as asking for each of its cells.
        self._plain = text.isascii() and text.isprintable()
        self.title = title
        self.cells = cells if self._plain else [clean(cell) for cell in cells]
        measure = len if self._plain else display_width
        self.width = max(display_width(title), max(map(measure, self.cells), default=0))


def _total(shown: list[_Shown], gap: int) -> int:
    return sum(part.width for part in shown) + gap * (len(shown) - 1)


def _cut(shown: list[_Shown], room: int, ellipsis: str) -> None:
    """The widest columns that may be cut give way first, each down to its least width."""
    excess = sum(part.width for part in shown) - room
    flexible = [part for part in shown if part.column.least is not None]
    widths = {id(part): part.width for part in flexible}
    while excess > 0:
        candidates = [part for part in flexible if widths[id(part)] > (part.column.least or _LEAST)]
        if not candidates:
            break
        widths[id(max(candidates, key=lambda part: widths[id(part)]))] -= 1
        excess -= 1
    for part in flexible:
        if widths[id(part)] < part.width:
            part.cut(widths[id(part)], ellipsis)


def fields(pairs: Iterable[tuple[str, str]], width: int | None = None) -> list[str]:
    """`name  value` lines with the values below each other, wrapped where they do not fit."""
    known = [(name, clean(value)) for name, value in pairs]
    indent = max((len(name) for name, _ in known), default=0) + 2
    lines = []
    for name, value in known:
        wrapped = [value] if width is None else _wrap(value, max(width - indent, _LEAST))
        lines += [f"{label:<{indent}}{line}".rstrip() for label, line in zip_longest([name], wrapped, fillvalue="")]
    return lines


def _wrap(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    import textwrap  # noqa: PLC0415  (start-up)

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def cut_middle(text: str, width: int, ellipsis: str = "…") -> str:
    """`text`, or its beginning and its end where it is wider than `width`."""
    if display_width(text) <= width:
        return text
    room = width - len(ellipsis)
    if room <= 0:
        return text[:width]
    head, tail = "", ""
    while room > 0:
        # One character from the front, one from the back: what tells names apart is mostly at the ends.
        character = text[len(head)]
        if display_width(character) > room:
            break
        head, room = head + character, room - display_width(character)
        character = text[-1 - len(tail)]
        if display_width(character) > room:
            break
        tail, room = character + tail, room - display_width(character)
    return f"{head}{ellipsis}{tail}"


def clean(text: str) -> str:
    """`text` with whatever could steer a terminal made visible."""
    if text.isprintable():
        return text
    return "".join(part if part.isprintable() else part.encode("unicode_escape").decode("ascii") for part in text)


def display_width(text: str) -> int:
    """How many cells of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    import unicodedata  # noqa: PLC0415  (start-up: most names are ASCII)

    wide = sum(unicodedata.east_asian_width(character) in {"W", "F"} for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) != 0 for character in text)


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - display_width(text))
    return f"{space}{text}" if right else f"{text}{space}"
