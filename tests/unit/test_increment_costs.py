"""A checkpoint added to a chain reads and writes what is new, counted by the kernel's own books."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20
FILES = 100

CREATE = """
import json, sys
from eoctl import open_store
def books():
    with open("/proc/self/io") as file:
        return {name: int(value) for name, _, value in (line.partition(":") for line in file)}
with open_store(sys.argv[1]).pipeline("p").writer() as writer:
    writer.checkpoint(sys.argv[2])  # modules are loaded, the second measures bytes alone
    for name, text in json.loads(sys.argv[4]).items():
        import os, time
        path = f"{sys.argv[2]}/{name}"
        with open(path + ".new", "wb") as file:
            file.write(text.encode() * (int(sys.argv[3]) // len(text)))
        os.replace(path + ".new", path)
    before = books()
    created = writer.checkpoint(sys.argv[2])
    after = books()
print(json.dumps({"read": after["rchar"] - before["rchar"], "written": after["wchar"] - before["wchar"],
    "added": created.snapshot.added_bytes, "full": created.snapshot.full_bytes, "files": created.snapshot.added_files,
    "source": created.read_bytes}))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "state"
    root.mkdir()
    for number in range(FILES):
        (root / f"{number:06d}.sst").write_bytes(number.to_bytes(4, "big") * (MIB // 4))
    return root


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs the books of Linux in /proc/self/io")
@pytest.mark.parametrize("percent", [1, 5])
def test_an_increment_reads_and_writes_only_what_is_new(tmp_path: Path, tree: Path, percent: int) -> None:
    subprocess.run(
        [sys.executable, "-c", "import eoctl, sys; eoctl.init_store(sys.argv[1])", tmp_path / "s"], check=True
    )
    changed = FILES * percent // 100
    # Text that zstd cannot shrink to nothing would hide nothing; that it can is told apart by `read`.
    texts = {f"{number:06d}.sst": f"{number:08d}" for number in range(changed)}
    done = subprocess.run(
        [sys.executable, "-c", CREATE, tmp_path / "s", tree, str(MIB), json.dumps(texts)],
        check=True,
        capture_output=True,
        text=True,
    )
    books = json.loads(done.stdout)
    new = changed * MIB
    records = 256 << 10  # HEAD twice, the base's manifest, the new one
    assert books["files"] == changed
    assert books["added"] == books["source"] == new
    assert books["full"] == FILES * MIB
    assert new <= books["read"] <= new + 3 * (64 << 10) * changed + records  # each new file is probed at three places
    assert books["written"] <= new + records
