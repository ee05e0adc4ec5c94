"""A savepoint goes from disk to S3 and back, and is the same, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eoctl.ambient import system_ambient
from eoctl.services.restore import restore
from eoctl.services.savepoint import Wish, create_folder, create_in_store, export, held_source, import_folder
from formats.ids import HashAlgorithm, PipelineId
from storage.backends.urls import open_place
from storage.store import init_store
from tests.properties.test_savepoints import MAP, VALUE, bytes_of, content_at, group, text_bytes
from tests.support.places import check_roots
from tests.support.seaweed import Server, running_server
from tests.support.states import Operator, Row, table_checkpoint
from tests.support.stores import at

pytestmark = pytest.mark.lane("s3")

ORDERS = PipelineId("orders")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.mark.parametrize("origin", ["disk", "S3"])
def test_a_savepoint_is_the_same_on_disk_and_on_s3(server: Server, tmp_path: Path, origin: str) -> None:
    urls = {"disk": str(tmp_path / "store"), "S3": server.url(server.bucket(), "one")}
    stores = {
        name: init_store(open_place(url, "test"), HashAlgorithm.BLAKE3, system_ambient()) for name, url in urls.items()
    }
    source, target = stores.pop(origin), stores.popitem()[1]
    rows: list[Row] = [(group(f"k{n}"), text_bytes(f"k{n}"), b"", b"", n.to_bytes(8, "big")) for n in range(5000)]
    days: list[Row] = [(*row[:3], text_bytes("mon"), row[4]) for row in rows[::7]]
    found = {"totals": Operator(states=((VALUE, rows), (MAP, days)), parallelism=3)}
    table_checkpoint(source, "orders", found, tmp_path / "tables", offsets={"totals": {"p": 7}})
    before = content_at(source, "orders@1")

    with held_source(source, at(source, "orders@1")) as opened:
        create_in_store(opened, source, "here", Wish())
        create_in_store(opened, target, "there", Wish())
        create_folder(opened, tmp_path / "folder", Wish(), elapsed=source.ambient.elapsed)
    export(source, at(source, "orders@here"), tmp_path / "from here")
    export(target, at(target, "orders@there"), tmp_path / "from there")
    import_folder(target, ORDERS, "again", tmp_path / "from here")
    export(target, at(target, "orders@again"), tmp_path / "again")

    assert content_at(target, "orders@there") == content_at(target, "orders@again") == before
    written = bytes_of(tmp_path / "folder")
    for name in ("from here", "from there", "again"):
        assert bytes_of(tmp_path / name) == written
    for store, address in ((source, "orders@here"), (target, "orders@there")):
        restore(store, at(store, address), tmp_path / address)
    assert bytes_of(tmp_path / "orders@here") == bytes_of(tmp_path / "orders@there")
    check_roots(target, ORDERS)
