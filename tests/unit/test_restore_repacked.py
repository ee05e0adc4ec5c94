"""A restore beside gc's re-packing reads what its own hold names."""

from __future__ import annotations

from pathlib import Path

from eoctl.services.resolve import resolve
from eoctl.services.restore import restore
from storage.repack import repack
from tests.support.places import PIPELINE, checkpoint_tree, memory_store, opened, write_tree
from tests.support.stores import noise
from tests.support.sweeper import Sweeper


def test_a_snapshot_that_was_re_packed_since_it_was_resolved_is_restored_from_where_it_lies_now(tmp_path: Path) -> None:
    store = memory_store(tmp_path)
    writer = opened(store)
    kept = {f"kept {number}": noise(6000, number) for number in range(3)}
    dropped = {f"dropped {number}": noise(6000, 100 + number) for number in range(30)}
    tree = tmp_path / "tree"
    checkpoint_tree(writer, write_tree(tree, kept | dropped))
    checkpoint_tree(writer, write_tree(tree, kept))
    resolved = resolve(store, "orders@2")
    gc = Sweeper(store)
    gc.expire("1")
    gc.advance()
    assert repack(gc.store, PIPELINE).packs == 1
    gc.advance()
    assert any("/o/" in key for key in gc.sweep())
    restore(store, resolved, tmp_path / "restored")
    assert {path.name: path.read_bytes() for path in (tmp_path / "restored").iterdir()} == kept
