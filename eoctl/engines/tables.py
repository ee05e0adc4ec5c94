"""A directory of sorted tables (formats/sst.py) as a source: state that is read by rows, of types that are told.

What wrote them says in each head which state a table is of and, of several of one state, which is newer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from eoctl.engines.directory import capture_tree
from eoctl.engines.source import Captured
from formats.errors import UsageError
from formats.manifest import Engine, StateInfo
from formats.sst import SortedTable


class TableSource(Struct, frozen=True):
    """The tables below `path`: every file there is one."""

    path: Path | str

    @contextmanager
    def capture(self) -> Iterator[Captured]:
        tree = capture_tree(Path(self.path), Engine(kind="eoctl"))
        names: dict[tuple[str, str], StateInfo] = {}
        for file in tree.files:
            if not file.name.endswith(".parquet"):
                raise UsageError(f"no sorted table: {file.name}", hint="name a directory of .parquet files only")
            with (tree.root / file.name).open("rb") as opened:
                schema = SortedTable(opened, file.name).schema
            types = {name: text for name in ("key", "namespace", "map_key", "value") if (text := getattr(schema, name))}
            info = StateInfo(name=schema.name, kind=schema.kind, properties={**schema.properties, **types})
            names.setdefault((schema.name, schema.kind), info)
        yield replace(tree, role="keyed", states=tuple(names[name] for name in sorted(names)))
