"""What must hold, checked whenever something changes: docs/protocol.md, I1 to I7 and I11.

The oracle sees every effect on the place itself, whoever caused it and however late. It keeps for each pipeline the
newest HEAD and the keys that its roots name, so that a step costs what it changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from msgspec import Struct

from formats.head import Head, HeadEntry, decode_head, roots
from formats.ids import BlobKey, HashAlgorithm, PipelineId
from formats.manifest import Blocks, Manifest, Whole, blob_key, files_of, packs_of
from storage import layout
from storage.backend import Key
from storage.store import decode_manifest

Contents = Mapping[str, bytes]  # by file name
Digests = Mapping[str, str]  # likewise
_TRY = "try-"


class Violation(BaseException):
    """Something that must hold does not. No `Exception`, so that nothing of ours may catch it."""


class Try(Struct):
    """One checkpoint that somebody tried to take: of what, what was reported of it, how often it is in history.

    `reported`: None while nothing was, or where the outcome is unknown.
    """

    pipeline: str
    contents: Contents
    digests: Digests
    reported: bool | None = None
    appeared: int = 0


class _Pipeline:
    """The newest HEAD, how many roots need each manifest, how many manifests need each blob."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.manifests: Counter[str] = Counter()
        self.blobs: Counter[str] = Counter()
        self.heads: list[Head] = [head]


class Oracle:
    """`values`: what is stored, by name."""

    def __init__(self, values: Mapping[str, tuple[bytes, float]], algorithm: HashAlgorithm) -> None:
        self.tries: list[Try] = []
        self.commits = 0
        self.deleted = 0
        self.checks = 0
        self._values = values
        self._hash = algorithm
        self._pipelines: dict[str, _Pipeline] = {}
        self._named_by: dict[str, tuple[frozenset[str], Digests]] = {}
        self._nonces: set[str] = set()

    # What is told to it

    def new_try(self, pipeline: PipelineId, contents: Contents, digests: Digests) -> tuple[int, str]:
        """The number of a try, and the tag by which it is known."""
        self.tries.append(Try(pipeline.name, contents, digests))
        return len(self.tries) - 1, f"{_TRY}{len(self.tries) - 1}"

    def report(self, number: int, *, success: bool | None) -> None:
        """I2: what was reported of a try."""
        one = self.tries[number]
        one.reported = success
        if success is not None and one.appeared != success:
            raise Violation(f"I2: try {number} was reported as {success}, and is in history {one.appeared} times")

    def heads_since(self, pipeline: PipelineId, mark: int) -> list[Head]:
        """The values that HEAD had since the mark; the one at the mark included."""
        known = self._pipelines.get(pipeline.name)
        return [] if known is None else known.heads[max(0, mark - 1) :]

    def mark(self, pipeline: PipelineId) -> int:
        known = self._pipelines.get(pipeline.name)
        return 0 if known is None else len(known.heads)

    def head(self, pipeline: PipelineId) -> Head | None:
        known = self._pipelines.get(pipeline.name)
        return None if known is None else known.head

    def garbage(self, pipeline: PipelineId) -> list[str]:
        """What is stored below the floor and named by no root."""
        known = self._pipelines[pipeline.name]
        found = []
        for name in self._values:
            pair = _stored(name)
            if pair is not None and pair[0] == pipeline.name:
                space, key = name.split("/")[2], BlobKey.parse(pair[1])
                named = known.manifests if space == "m" else known.blobs
                if key.era < known.head.floor and str(key) not in named:
                    found.append(name)
        return found

    def contents_of(self, entry: HeadEntry) -> Contents:
        """What was there when the snapshot was taken."""
        return self.tries[_try_of(entry)].contents

    # What happens

    def swapped(self, data: bytes) -> None:
        """HEAD has this value now."""
        after = decode_head(data)
        self.checks += 1
        known = self._pipelines.get(after.pipeline)
        if after.nonce in self._nonces:
            raise Violation(f"a nonce came twice: {after.nonce}")
        self._nonces.add(after.nonce)
        if known is None:
            self._pipelines[after.pipeline] = known = _Pipeline(after)
            if list(roots(after)):
                raise Violation("I6: a first HEAD with roots")
            return
        before = known.head
        _check_counters(before, after)
        self._check_entries(before, after)
        self._check_roots(known, before, after)
        known.head = after
        known.heads.append(after)

    def created(self, key: Key) -> None:
        """Something is stored that was not."""
        if key.path.endswith("/HEAD"):
            self.swapped(self._values[key.path][0])

    def gone(self, name: str, by: str, *, lawful: bool) -> None:
        """A value is no more. `lawful`: gc deleted it, or the disk lost what it never had."""
        if name.endswith("/HEAD") or name == str(layout.STORE):
            raise Violation(f"I4: {by} deleted {name}")
        pair = _stored(name)
        if pair is None:
            return
        self.deleted += 1
        known = self._pipelines[pair[0]]
        key = BlobKey.parse(pair[1])
        named = known.manifests if name.split("/")[2] == "m" else known.blobs
        if str(key) in named:
            raise Violation(f"I1, I4: {by} deleted {name}, which roots of HEAD {known.head.seq} name")
        if not lawful:
            raise Violation(f"I4: {by} deleted {name} and is no gc")
        if key.era >= known.head.floor:
            raise Violation(f"I4: {by} deleted {name}, which is not below the floor {known.head.floor}")

    def lost(self, name: str) -> None:
        """The disk has lost what it could not make durable."""
        pair = _stored(name)
        if pair is not None:
            known = self._pipelines[pair[0]]
            named = known.manifests if name.split("/")[2] == "m" else known.blobs
            if pair[1] in named:
                raise Violation(f"I1: the disk lost {name} after a failed fsync, and roots name it")

    # What is checked

    def _check_entries(self, before: Head, after: Head) -> None:
        """I5, I6: entries come by commit, leave by way of the trash, and the trash only by an advance."""
        known = {root.txid for root in roots(before)}
        live = {entry.txid for entry in after.live}
        kept = live | {trashed.entry.txid for trashed in after.trash}
        if after.state == "active":
            if not {entry.txid for entry in before.live} <= kept:
                raise Violation("I6: a live entry vanished")
            if after.era == before.era and not {trashed.entry.txid for trashed in before.trash} <= kept:
                raise Violation("I6: an entry in the trash vanished without an advance")
        if not {hold.entry.txid for hold in after.holds} | {t.entry.txid for t in after.trash} <= known:
            raise Violation("I6: a hold or trash of what was no root")
        for entry in after.live:
            if entry.txid not in known:
                self._check_commit(before, after, entry)

    def _check_commit(self, before: Head, after: Head, entry: HeadEntry) -> None:
        self.commits += 1
        number = _try_of(entry)
        one = self.tries[number]
        one.appeared += 1
        if one.appeared > 1:
            raise Violation(f"I2: try {number} is in history {one.appeared} times")
        if one.reported is False:
            raise Violation(f"I2: try {number} was reported as failed, and came to be")
        if one.pipeline != after.pipeline:
            raise Violation(f"I11: try {number} of {one.pipeline} is in {after.pipeline}")
        if not (entry.attempt == before.writer.attempt == after.writer.attempt):
            raise Violation(f"I5: attempt {entry.attempt} committed, the newest is {before.writer.attempt}")
        if before.writer.owner != after.writer.owner or entry.id <= before.last_id or entry.seq != after.seq:
            raise Violation("I5: a commit with another owner, or an id or number used before")

    def _check_roots(self, known: _Pipeline, before: Head, after: Head) -> None:
        """I1 and the commit rule: what is named anew is there, is what it says, and is not below the floor."""
        now = {root.manifest for root in roots(after)}
        came = now - known.manifests.keys()
        left = known.manifests.keys() - now
        if not came and not left:
            return
        added: Counter[str] = Counter()
        for root in roots(after):
            if root.manifest in came:
                self._check_new("m", root.manifest, before)
                if self._named(after, root.manifest)[1] != self.tries[_try_of(root)].digests:
                    raise Violation(f"I7: the manifest {root.manifest} of {root.label} says something else")
        for manifest in came:
            added.update(self._named(after, manifest)[0])
        for blob in sorted(added.keys() - known.blobs.keys()):
            self._check_new("o", blob, before)
        known.manifests.update(came)
        known.blobs.update(added)
        for manifest in left:
            del known.manifests[manifest]
            known.blobs.subtract(self._named(after, manifest)[0])
        if left:
            known.blobs = +known.blobs

    def _check_new(self, space: str, text: str, before: Head) -> None:
        key = BlobKey.parse(text)
        pipeline = PipelineId(before.pipeline)
        name = str(layout.manifest(pipeline, key) if space == "m" else layout.blob(pipeline, key))
        if key.era < before.floor:
            raise Violation(f"I4: {name} is named anew, below the floor {before.floor}")
        if name not in self._values:
            raise Violation(f"I1: {name} is named, and is not there")
        if self._hash.digest(self._values[name][0]) != key.digest:
            raise Violation(f"I1: {name} is not what its name says")

    def _named(self, head: Head, manifest: str) -> tuple[frozenset[str], Digests]:
        """The blobs that a manifest names, by the places of its files; and the contents of those."""
        cached = f"{head.pipeline}/{manifest}"
        if cached not in self._named_by:
            key = layout.manifest(PipelineId(head.pipeline), BlobKey.parse(manifest))
            found = decode_manifest(self._values[key.path][0], manifest, thorough=False)
            self._named_by[cached] = frozenset(_blobs_of(found)), {f.name: f.digest for _, _, f in files_of(found)}
        return self._named_by[cached]


def _blobs_of(manifest: Manifest) -> Iterator[str]:
    for _, _, file in files_of(manifest):
        yield from packs_of(file)
        if isinstance(file.place, Whole):
            yield str(blob_key(file, file.place))
        elif isinstance(file.place, Blocks):
            yield from (str(blob_key(t, t.place)) for t in file.place.tables if isinstance(t.place, Whole))


def _check_counters(before: Head, after: Head) -> None:
    """I3."""
    if after.seq != before.seq + 1:
        raise Violation(f"I3: seq went from {before.seq} to {after.seq}")
    if after.era < before.era or after.floor < before.floor or after.last_id < before.last_id:
        raise Violation("I3: a counter went back")
    if after.writer.attempt < before.writer.attempt:
        raise Violation("I3: the attempt went back")
    if after.floor > after.era + (after.state == "destroyed"):
        raise Violation("I3: the floor is above the era")


def _stored(name: str) -> tuple[str, str] | None:
    """Pipeline and key of a blob or a manifest."""
    parts = name.split("/")
    if len(parts) > 3 and parts[0] == "p" and parts[2] in {"o", "m"}:
        return parts[1], parts[-1]
    return None


def _try_of(entry: HeadEntry) -> int:
    return int(next(tag for tag in entry.tags if tag.startswith(_TRY)).removeprefix(_TRY))
