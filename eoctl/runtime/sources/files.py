"""Files of lines: each file is a split, its position the byte at which the next line begins.

A file may grow while the pipeline does not run, and is read on from where it ended. A last line without an end is taken
for whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from eoctl.runtime.records import Batch
from eoctl.runtime.sources.generator import number_at
from eoctl.runtime.sources.protocol import ENDED, Polled, Position
from formats.errors import CorruptError, InvalidInputError, UsageError
from storage.os_errors import told

_LINE_BYTES = 256  # about: how much is asked for, for each record wanted


def text_line(line: bytes) -> str:
    """A line as text."""
    return line.decode()


class LineFiles(Struct, frozen=True):
    """The files that `pattern` matches, by name. `parse`: a line without its end -> a record."""

    pattern: str
    parse: Callable[[bytes], Any] = text_line
    replayable: bool = True

    def splits(self) -> tuple[str, ...]:
        root = Path(self.pattern).anchor
        found = tuple(sorted(map(str, Path(root).glob(self.pattern.removeprefix(root)))))
        if not found:
            raise UsageError(f"no file matches {self.pattern}", hint="name files by a pattern such as 'in/*.jsonl'")
        return found

    def reader(self, splits: tuple[str, ...], positions: Mapping[str, Position]) -> LineReader:
        return LineReader(self.parse, splits, positions)


def json_lines(pattern: str) -> LineFiles:
    """Files of one JSON document in each line."""
    import msgspec  # noqa: PLC0415  (its decoder is made once)

    return LineFiles(pattern, msgspec.json.Decoder().decode)


class LineReader:
    """Reads some lines of each file in turn, so that none falls behind."""

    def __init__(
        self, parse: Callable[[bytes], Any], splits: tuple[str, ...], positions: Mapping[str, Position]
    ) -> None:
        self._parse = parse
        self._at = {split: number_at(split, positions.get(split, 0)) for split in splits}
        self._open = list(splits)
        self._files: dict[str, BinaryIO] = {}

    def poll(self, limit: int) -> Polled:
        if not self._open:
            return ENDED
        split = self._open.pop(0)
        with told(split):
            file = self._file(split)
            lines = file.readlines(limit * _LINE_BYTES) if limit > 1 else [file.readline()]
        at = self._at[split]
        lines = [line for line in lines if line]
        if not lines:
            file.close()
            del self._files[split]
            return Polled(split=split, closed=True)
        self._open.append(split)
        try:
            values = [self._parse(line.rstrip(b"\r\n")) for line in lines]
        except ValueError as error:
            message = f"{split}: a line between byte {at} and {at + sum(map(len, lines))} cannot be read: {error}"
            raise InvalidInputError(message, hint="mend the line, or give a parse function that can") from error
        self._at[split] = at + sum(map(len, lines))
        return Polled(Batch(values), split)

    def positions(self) -> Mapping[str, Position]:
        return self._at

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _file(self, split: str) -> BinaryIO:
        found = self._files.get(split)
        if found is None:
            found = self._files[split] = Path(split).open("rb")  # noqa: SIM115  (open for as long as it is read)
            if found.seek(0, 2) < self._at[split]:
                raise CorruptError(
                    f"{split} is shorter than it was: {self._at[split]} bytes were read", hint="it must only grow"
                )
            found.seek(self._at[split])
        return found
