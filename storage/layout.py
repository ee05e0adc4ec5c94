"""Every key name in the store; nobody else spells one.

store.json, p/PIPELINE/HEAD, p/PIPELINE/o/DD/DIGEST.ERA, p/PIPELINE/m/DIGEST.ERA,
p/PIPELINE/pin/SESSION.N, p/PIPELINE/bak/ERA, p/PIPELINE/report/TIME.
"""

from __future__ import annotations

from formats.errors import BadManifestError
from formats.ids import BlobKey, PipelineId
from storage.backend import Key

STORE = Key("store.json")
PIPELINES = Key("p")
_MAX_DIGITS = 16


def head(pipeline: PipelineId) -> Key:
    return Key(f"p/{pipeline}/HEAD")


def blobs(pipeline: PipelineId) -> Key:
    return Key(f"p/{pipeline}/o")


def manifests(pipeline: PipelineId) -> Key:
    return Key(f"p/{pipeline}/m")


def pins(pipeline: PipelineId) -> Key:
    return Key(f"p/{pipeline}/pin")


def backups(pipeline: PipelineId) -> Key:
    return Key(f"p/{pipeline}/bak")


def reports(pipeline: PipelineId) -> Key:
    return Key(f"p/{pipeline}/report")


def blob(pipeline: PipelineId, key: BlobKey) -> Key:
    return Key(f"p/{pipeline}/o/{key.digest[:2]}/{key}")


def manifest(pipeline: PipelineId, key: BlobKey) -> Key:
    return Key(f"p/{pipeline}/m/{key}")


def pin(pipeline: PipelineId, session: str, number: int) -> Key:
    return Key(f"p/{pipeline}/pin/{session}.{number}")


def backup(pipeline: PipelineId, era: int) -> Key:
    return Key(f"p/{pipeline}/bak/{era}")


def parse_backup(key: Key) -> int | None:
    """The era of a copy of HEAD, or None for another name."""
    name = key.path.rpartition("/")[2]
    return int(name) if name.isascii() and name.isdecimal() and len(name) <= _MAX_DIGITS else None


def folders(pipeline: PipelineId) -> list[Key]:
    """The folders that a pipeline fills: made ahead where a folder costs a write."""
    return [Key(f"p/{pipeline}/o/{number:02x}") for number in range(256)] + [manifests(pipeline)]


def parse_blob(pipeline: PipelineId, key: Key) -> BlobKey | None:
    """The blob that `key` names, or None where it does not parse strictly: such a key is reported, never deleted."""
    parsed = _parse(key)
    return parsed if parsed is not None and blob(pipeline, parsed) == key else None


def parse_manifest(pipeline: PipelineId, key: Key) -> BlobKey | None:
    """The manifest that `key` names, or None, likewise."""
    parsed = _parse(key)
    return parsed if parsed is not None and manifest(pipeline, parsed) == key else None


def _parse(key: Key) -> BlobKey | None:
    try:
        return BlobKey.parse(key.path.rpartition("/")[2])
    except BadManifestError:
        return None
