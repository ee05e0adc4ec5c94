"""Keyed state of the runtime against a dictionary: set, deleted, drained, frozen and restored in any order."""

from __future__ import annotations

import shutil
from collections.abc import Hashable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eoctl.runtime.state.backend import OldState, StateBackend, StateSpec, TableFile, View
from eoctl.runtime.state.heap import HeapState
from eoctl.runtime.state.rocksdb import RocksState
from formats.manifest import Inline, StateFile

SPECS = (
    StateSpec(name="value", key="string", namespace="long", value="long"),
    StateSpec(name="plain", namespace="long"),
    StateSpec(name="list", kind="list", key="string", namespace="long", value="long"),
    StateSpec(name="map", kind="map", key="string", namespace="long", map_key="long", value="long"),
    StateSpec(name="timer", kind="timer", key="string", namespace="long"),
)
KEYS = st.sampled_from(["", "a", "b", "ab"])
NAMESPACES = st.sampled_from([0, 0, 0, 1, -1])
NUMBER = count()
NUMBERS = st.integers(-2, 2)


class Tables(RuleBasedStateMachine):
    """One subtask's state. Views are asked for once, as operators do, and kept until their namespace is drained."""

    backend: type[HeapState | RocksState]
    home: Path

    @initialize(spec=st.sampled_from(SPECS))
    def begin(self, spec: StateSpec) -> None:
        self.spec = spec
        self.model: dict[int, dict[Hashable, Any]] = {}
        self.open(self.fresh())

    def fresh(self) -> Path:
        self.number = next(NUMBER)
        folder = self.home / str(self.number)
        folder.mkdir()
        return folder

    def open(self, folder: Path, old: tuple[OldState, ...] = ()) -> None:
        self.state: StateBackend = self.backend(folder, 128, f"p{self.number}-")
        self.state.load(old, None)
        self.table = self.state.table(self.spec)
        self.views: dict[int, View] = {}

    def view(self, namespace: int) -> View:
        if namespace not in self.views:
            self.views[namespace] = self.table.view(namespace)
        return self.views[namespace]

    def place(self, key: str, number: int) -> Hashable:
        if self.spec.name == "plain":
            return key or None
        return (key, number) if self.spec.kind in {"map", "timer"} else key

    @rule(namespace=NAMESPACES, key=KEYS, number=NUMBERS)
    def set(self, namespace: int, key: str, number: int) -> None:
        place = self.place(key, number)
        value = True if self.spec.kind == "timer" else [number] if self.spec.kind == "list" else number
        self.view(namespace)[place] = value
        self.table.touched(namespace, (place,))
        self.model.setdefault(namespace, {})[place] = value

    @rule(namespace=NAMESPACES, key=KEYS, number=NUMBERS)
    def delete(self, namespace: int, key: str, number: int) -> None:
        place = self.place(key, number)
        expected = self.model.get(namespace, {}).pop(place, None)
        assert self.view(namespace).pop(place, None) == expected
        self.table.touched(namespace, (place,))

    @rule(namespace=NAMESPACES)
    def empty(self, namespace: int) -> None:
        for place in list(self.view(namespace)):
            del self.view(namespace)[place]
            self.table.touched(namespace, (place,))
        self.model.pop(namespace, None)

    @rule(namespaces=st.frozensets(NAMESPACES, min_size=1))
    def drain(self, namespaces: frozenset[int]) -> None:
        found = self.table.drain(namespaces)
        assert {namespace: dict(entries) for namespace, entries in found.items()} == {
            namespace: self.model.pop(namespace, {}) for namespace in namespaces
        }
        for namespace in namespaces:
            self.views.pop(namespace, None)

    @rule()
    def freeze(self) -> None:
        self.state.freeze().write()

    @precondition(lambda self: self.spec.kind == "map")
    @rule(namespace=NAMESPACES, key=KEYS)
    def look(self, namespace: int, key: str) -> None:
        places: list[Any] = list(self.model.get(namespace, {}))
        found: list[Any] = self.table.map_keys(namespace, key)
        assert sorted(found) == sorted(number for own, number in places if own == key)

    @rule(in_place=st.booleans())
    def restart(self, in_place: bool) -> None:
        frozen = self.state.freeze()
        files = frozen.write()
        home = self.fresh()
        folder = home if self.backend is HeapState else home / "was"
        folder.mkdir(exist_ok=True)
        for file in files:
            shutil.copyfile(frozen.directory / file.name, folder / file.name)
        self.state.close()
        self.open(home, (OldState(folder, tuple(state_file(folder, file) for file in files), in_place),))

    @invariant()
    def is_as_the_model(self) -> None:
        if hasattr(self, "model"):
            full = {namespace: values for namespace, values in self.model.items() if values}
            found = {namespace: self.table.view(namespace) for namespace in self.table.namespaces()}
            assert {namespace: dict(view) for namespace, view in found.items()} == full
            assert {namespace: dict(view.items()) for namespace, view in found.items()} == full

    def teardown(self) -> None:
        if hasattr(self, "state"):
            self.state.close()


def state_file(folder: Path, file: TableFile) -> StateFile:
    size = (folder / file.name).stat().st_size
    role: Any = "timer" if file.timer else "keyed"
    return StateFile(name=file.name, bytes=size, digest="0" * 64, place=Inline(b""), first_stored_in=1, role=role)


@pytest.mark.parametrize(("backend", "times"), [(HeapState, 4), (RocksState, 1)])
def test_state_is_a_dictionary_that_comes_back(
    tmp_path: Path, backend: type[HeapState | RocksState], times: int
) -> None:
    machine: Any = type("Drawn", (Tables,), {"backend": backend, "home": tmp_path})
    examples = times * settings().max_examples  # of the heap, which takes a tenth of the time
    run_state_machine_as_test(machine, settings=settings(max_examples=examples))
