"""Dealing state out anew to another number of subtasks: how much of a list, and which partitions, each gets. Pure.

Keyed state goes by key groups (formats/keygroups.py). An operator's list is split in order, the first subtasks getting
one element more where it does not come out even; a union list and broadcast state go to every subtask whole.
Source: Flink, `RoundRobinOperatorStateRepartitioner`, but for which subtasks get the one more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from formats.errors import IncompatibleError

if TYPE_CHECKING:
    import pyarrow as pa

Offset = int | str


def shares(total: int, parallelism: int) -> list[int]:
    """How many of `total` elements each subtask gets."""
    least, more = divmod(total, parallelism)
    return [least + (subtask < more) for subtask in range(parallelism)]


def assigned(offsets: Mapping[str, Offset], parallelism: int) -> list[dict[str, Offset]]:
    """Each partition with one subtask: in turn, by the natural order of their names."""
    found: list[dict[str, Offset]] = [{} for _ in range(parallelism)]
    for place, partition in enumerate(sorted(offsets, key=_natural)):
        found[place % parallelism][partition] = offsets[partition]
    return found


def part_of(batches: Iterator[pa.RecordBatch], subtask: int, start: int, count: int) -> Iterator[pa.RecordBatch]:
    """The elements `start` to `start + count` of a list, as those of `subtask`, numbered from 0."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    at = number = 0
    for batch in batches:
        chosen = batch.slice(max(0, start - at), max(0, min(len(batch), start + count - at) - max(0, start - at)))
        at += len(batch)
        if len(chosen):
            keys = [place.to_bytes(4, "big") for place in range(number, number + len(chosen))]
            groups = pa.repeat(pa.scalar(subtask, pa.uint16()), len(chosen))
            columns = [groups, pa.array(keys, pa.binary()), *chosen.columns[2:]]
            yield pa.record_batch(columns, schema=batch.schema)
            number += len(chosen)
        if at >= start + count:
            return


def check_parallelism(uid: str, parallelism: int, max_parallelism: int) -> None:
    """Raises: IncompatibleError, where there are fewer key groups than subtasks."""
    if max_parallelism and parallelism > max_parallelism:
        message = f"{uid} has {max_parallelism} key groups, too few for {parallelism} subtasks"
        hint = f"--parallelism {max_parallelism} or less; --max-parallelism N hashes its keys anew"
        raise IncompatibleError(message, hint=hint, operator=uid)


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """`topic-9` before `topic-10`."""
    parts: list[tuple[int, int, str]] = []
    word = ""
    for character in name:
        if word and word[-1].isdecimal() is not character.isdecimal():
            parts.append(_part(word))
            word = ""
        word += character
    return [*parts, _part(word)] if word else parts, name


def _part(word: str) -> tuple[int, int, str]:
    return (0, int(word), "") if word.isascii() and word.isdecimal() and len(word) < 18 else (1, 0, word)
