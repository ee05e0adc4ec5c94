"""A network file system is refused, or proves itself; a place that loses updates is found out."""

import os
from pathlib import Path

import pytest

from formats.errors import UnsafeBackendError
from storage.backend import Key, Version
from storage.backends import probe
from storage.backends.local import LocalBackend
from storage.backends.probe import check_file_system, file_system_of, is_network, race


class Forgetful(LocalBackend):
    """Swaps as a server does that ignores conditions."""

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        del expected
        os.sched_yield()
        (Path(self._root) / key.path).write_bytes(body)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse", "9p", "ceph", "virtiofs"])
def test_network_file_systems_are_known(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "zfs", "overlay", "apfs", "unknown"])
def test_local_file_systems_are_not_taken_for_network_ones(kind: str) -> None:
    assert not is_network(kind)


def test_the_file_system_of_a_path_that_does_not_exist_yet_is_its_parents(tmp_path: Path) -> None:
    assert file_system_of(tmp_path / "a" / "b") == file_system_of(tmp_path) != "unknown"


def test_a_network_file_system_has_to_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "file_system_of", lambda _: "nfs4")
    backend = LocalBackend(tmp_path, "t")
    with pytest.raises(UnsafeBackendError, match="network file system \\(nfs4\\)") as caught:
        check_file_system(backend, tmp_path, allow_network=False)
    assert caught.value.hint is not None
    assert "--allow-network-fs" in caught.value.hint
    check_file_system(backend, tmp_path, allow_network=True)
    assert [*(tmp_path / "tmp").iterdir()] == []


def test_a_place_that_loses_updates_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(UnsafeBackendError, match="loses updates"):
        race(Forgetful(tmp_path, "t"), tmp_path)


def test_a_place_that_keeps_every_update_passes(tmp_path: Path) -> None:
    race(LocalBackend(tmp_path, "t"), tmp_path)
