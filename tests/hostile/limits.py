"""Bad manifests as large as the format allows at all: what they cost is told, not bounded to 256 MiB and 5 s.

python -m tests.hostile.bounds limits --cpu 60 --slowest 10
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from formats.errors import InvalidInputError
from formats.manifest import MAX_FILES, MAX_MANIFEST_BYTES
from storage.store import decode_manifest, decode_manifest_keys
from tests.hostile.case import Action, Case, reads
from tests.hostile.manifests import bomb, many_files

LARGEST: dict[str, Callable[[], bytes]] = {
    "256 MiB of spaces": lambda: bomb(MAX_MANIFEST_BYTES),
    "256 MiB of open lists": lambda: bomb(MAX_MANIFEST_BYTES, b"["),
    "256 MiB of one string": lambda: bomb(MAX_MANIFEST_BYTES, b"x", b'{"attempt":1,"created_at":"'),
    "a file more than there may be": lambda: many_files(MAX_FILES + 1),
    "as many files as there may be, not sorted": lambda: many_files(MAX_FILES),
}


def _decode(data: bytes) -> object:
    return decode_manifest(data, "it")


CASES: list[Case] = [reads(f"limit: {name}", InvalidInputError, _decode, build) for name, build in LARGEST.items()]


def _all_keys(_box: Path) -> Action:
    data = many_files(MAX_FILES)
    return lambda: decode_manifest_keys(data, "it")


CASES.append(Case("limit: the keys of as many files as there may be", None, _all_keys))
