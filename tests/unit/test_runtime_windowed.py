"""Windows over state: what a watermark costs, and that open windows come back."""

from pathlib import Path
from typing import Any

import pytest

from eoctl.runtime.operators.protocol import Context
from eoctl.runtime.operators.windowed import Windowed
from eoctl.runtime.records import Batch
from eoctl.runtime.state.backend import OldState, StateBackend
from eoctl.runtime.state.heap import HeapState
from eoctl.runtime.state.rocksdb import RocksState, RocksTable
from eoctl.runtime.windows import COUNT, Sliding, Tumbling
from formats.manifest import Inline, StateFile


def opened(state: StateBackend, windows: Tumbling | Sliding) -> Windowed:
    operator = Windowed(windows, COUNT)
    operator.open(Context(uid="w", subtask=0, parallelism=1, max_parallelism=128, state=state, key_type="string"))
    return operator


def feed(operator: Windowed, *records: tuple[str, int]) -> None:
    operator.process(Batch([1] * len(records), [time for _, time in records], [key for key, _ in records]), 0)


def results(operator: Windowed, time: int) -> list[Any]:
    out: Any = operator.advance(time)
    if out is None:
        return []
    assert out.keys == [value[0] for value in out.values]
    assert out.timestamps == [value[2] - 1 for value in out.values]
    return sorted(out.values)


@pytest.mark.parametrize("backend", [HeapState, RocksState])
def test_windows_that_were_open_come_back(tmp_path: Path, backend: type[HeapState | RocksState]) -> None:
    state = backend(tmp_path / "a", 128, "a-")
    operator = opened(state, Sliding(200, 100))
    feed(operator, ("x", 50), ("y", 150), ("x", 150))
    assert results(operator, 99) == [("x", -100, 100, 1)]
    frozen = state.freeze()
    files = tuple(
        StateFile(
            name=file.name,
            bytes=(frozen.directory / file.name).stat().st_size,
            digest="0" * 64,
            place=Inline(b""),
            first_stored_in=1,
            role="keyed",
        )
        for file in frozen.write()
    )
    other = backend(tmp_path / "b", 128, "b-")
    other.load([OldState(frozen.directory, files, in_place=False)], None)
    again = opened(other, Sliding(200, 100))
    feed(again, ("y", 250))
    assert results(again, 299) == [("x", 0, 200, 2), ("x", 100, 300, 1), ("y", 0, 200, 1), ("y", 100, 300, 2)]
    assert results(again, 399) == [("y", 200, 400, 1)]
    assert list(other.table(again._table.spec).namespaces()) == []
    state.close()
    other.close()


def test_a_watermark_reads_the_database_only_if_a_window_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = RocksState(tmp_path, 128, "a-")
    operator = opened(state, Tumbling(100))
    feed(operator, *((f"key-{number}", number % 100) for number in range(500)))
    read: list[bytes] = []
    parse = RocksTable.parse

    def counted(table: RocksTable, data: bytes) -> tuple[bytes, Any]:
        read.append(data)
        return parse(table, data)

    monkeypatch.setattr(RocksTable, "parse", counted)
    for time in range(98):
        assert results(operator, time) == []
    assert not read
    assert len(results(operator, 99)) == 500
    assert len(read) == 500
    state.close()
