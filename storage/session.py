"""A session: one writer's upload, the era its blobs are stamped with, and what it has confirmed.

Rules kept here (docs/protocol.md): a manifest names only keys that a root of the swapped HEAD names too, or
that this session confirmed in an era not below the floor; blobs are durable before the manifest, the manifest
before HEAD; the swap of HEAD is the commit point and nothing else is; nothing is ever deleted here, whatever
the outcome. Bad luck (a floor that rose, a base that went) costs another plan and some bytes, never data.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar, assert_never

import msgspec

from formats.errors import BlobGoneError, EoctlError, SessionExpiredError
from formats.head import Head, HeadEntry, roots
from formats.ids import Attempt, BlobKey, Digest, Era, PipelineId, TxId
from formats.manifest import Blocks, Inline, Manifest, Place, Slice, StateFile, Whole, blob_key, files_of
from storage import layout
from storage.backend import Body, CopyOf, KeyAbsentError, LocalFile, SyncFailedError
from storage.blobs import Blobs, PoisonedNameError
from storage.edits import BelowFloorError, Proof, ReuseLostError, commit, open_attempt, raise_era, rewrite
from storage.head import MAX_TRIES, CommittedHead, swap_head
from storage.pins import SYNC_FAILED, Pin, PinRecord
from storage.store import Store, encode_manifest
from storage.transfer import Later

RESUME_BYTES = 8 << 20  # from here on asking whether it is there costs less than sending it for nothing

Plan = Callable[["Session"], Manifest]
Rewriting = Callable[["Session"], Iterable[tuple[str, Manifest]]]  # key of a root's manifest, and what replaces it

_Result = TypeVar("_Result")


class Session:
    """Uploads of one attempt (or of none, for a savepoint or a rewriting) that end in one commit.

    Not `based`: no base is read, and nothing is shared with one.
    """

    def __init__(
        self,
        store: Store,
        pipeline: PipelineId,
        attempt: Attempt | None = None,
        owner: TxId | None = None,
        *,
        based: bool = True,
    ) -> None:
        self.store = store
        self.pipeline = pipeline
        self.attempt = attempt
        self.owner = owner
        self.txid = TxId(store.ambient.new_id())
        self.blobs = Blobs(store.backend, pipeline, store.hash)
        self.head = store.head(pipeline)
        self.era = Era(self.head.head.era)
        self.base: Manifest | None = None
        self.pack_bytes: dict[str, int] = {}
        self._base_entry: HeadEntry | None = None
        self._base_by_digest: dict[str, StateFile] | None = None
        self._confirmed: dict[BlobKey, int] = {}
        self._own: dict[str, StateFile] = {}
        self._own_eras: set[Era] = set()
        self._borrows = False
        self._rewrites: frozenset[str] = frozenset()
        self._numbers = itertools.count()
        self._based = based
        self._later = Later()
        self._rebase(self.head)

    # What a plan may use.

    def scratch(self) -> Path:
        """A new file name that `upload` can take cheaply."""
        return self.store.place.scratch / f"{self.txid}.{next(self._numbers)}"

    def upload(self, digest: Digest, size: int, body: Body) -> BlobKey:
        """The blob is confirmed in this session's era. Safe to call from several threads.

        What a session that died has sent to a place far away is not sent again.
        """
        key = BlobKey(digest, self.era)
        sent = isinstance(body, LocalFile) and size >= RESUME_BYTES and self.confirm(digest, size) is not None
        if sent or key in self._confirmed:
            if isinstance(body, LocalFile):
                body.path.unlink()
        else:
            self.blobs.put(key, body)
            self._confirmed[key] = size
        self._own_eras.add(self.era)
        return key

    def upload_later(self, digest: Digest, size: int, body: Body) -> BlobKey:
        """As `upload`, but to a place far away it may happen meanwhile; before the commit it has happened."""
        if self.store.place.remote:
            self._later.add(lambda: self.upload(digest, size, body))
        else:
            self.upload(digest, size, body)
        return BlobKey(digest, self.era)

    def confirm(self, digest: Digest, size: int) -> BlobKey | None:
        """The blob's key where it lies in this session's era already, whoever left it there: it is confirmed now.

        None: it is not known to be there with the right bytes. Safe to call from several threads.
        """
        key = BlobKey(digest, self.era)
        if key not in self._confirmed:
            # On disk only `create` makes durable what somebody else has linked.
            if not (self.store.place.remote and self.blobs.holds(key, size)):
                return None
            self._confirmed[key] = size
        self._own_eras.add(self.era)
        return key

    def find(self, digest: Digest) -> StateFile | None:
        """A file of this content that the commit may name: uploaded by this session, or in the base."""
        own = self._own.get(digest)
        if own is not None:
            self._own_eras.update(_eras_of(own.place))
            return own
        if self._base_by_digest is None:
            base = () if self.base is None else files_of(self.base)
            self._base_by_digest = {file.digest: file for _, _, file in base}
        found = self._base_by_digest.get(digest)
        if found is not None:
            self.borrow()
        return found

    def borrow(self) -> None:
        """The plan names files of the base as the base names them."""
        self._borrows = True

    def remember(self, file: StateFile) -> None:
        """The file's content was stored by this session, in a place of its own (not in blocks)."""
        self._own[file.digest] = file

    def scrap(self) -> None:
        """This session's scratch files are gone."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in self.store.place.scratch.iterdir():
                if path.name.startswith(f"{self.txid}."):
                    path.unlink(missing_ok=True)

    # Commit.

    def commit(self, plan: Plan) -> HeadEntry:
        """What `plan` describes is a snapshot, exactly once. The plan may be asked again, for another base or era.

        Raises: FencedError, ConflictError, SessionExpiredError, CommitUnknownError, what the plan raises.
        """
        return self._insist(lambda: self._try_commit(plan(self)))

    def rewrite(self, plan: Rewriting, *, beside_readers: bool = False) -> Mapping[str, BlobKey]:
        """Roots have the manifests of `plan` instead of theirs, which say the same; all in one swap.

        What a new manifest names is named by the one that it replaces, or was uploaded by this session. The plan is
        asked with the newest `head`, and again after bad luck. `beside_readers`: holds with an end stay as they are.
        Returns the keys that were swapped in, by the old ones.
        Raises: SessionExpiredError, CommitUnknownError, what the plan raises.
        """
        return self._insist(lambda: self._try_rewrite(plan, beside_readers=beside_readers))

    def _insist(self, attempt: Callable[[], _Result]) -> _Result:
        """What `attempt` gives, tried again with what bad luck has left."""
        trouble: EoctlError | None = None
        try:
            for _ in range(MAX_TRIES):
                self._own_eras, self._borrows, self._rewrites = set(), False, frozenset()
                try:
                    if trouble is not None:
                        self._recover(trouble)
                    return attempt()
                except (BelowFloorError, ReuseLostError, PoisonedNameError) as error:
                    trouble = error
                except (KeyAbsentError, BlobGoneError) as error:
                    if not self._overtaken():
                        raise
                    trouble = error
                finally:
                    self._later.end()
        except SyncFailedError:
            # What was linked by now may be lost however it reads, so it must not count as confirmed to anyone.
            self._distrust()
            raise
        finally:
            self.scrap()
        message = f"the session could not keep up with gc: {MAX_TRIES} tries"
        raise SessionExpiredError(message, hint="run it again; check the grace time of gc") from trouble

    def _try_commit(self, manifest: Manifest) -> HeadEntry:
        stored = encode_manifest(manifest)
        key = BlobKey(self.store.hash.digest(stored), self.era)
        # Order (I1): every blob is durable by now; the manifest before HEAD names it.
        self._later.wait()
        self._put_manifest(key, stored)
        entry = entry_of(manifest, key, len(stored))
        borrowed = {self._base_entry.manifest} if self._borrows and self._base_entry is not None else set()
        proof = Proof(own_eras=frozenset(self._own_eras), borrowed_from=frozenset(borrowed))
        edit = partial(commit, entry=entry, attempt=self.attempt, owner=self.owner, proof=proof)
        self.head = self.store.head(self.pipeline)
        self._swap(edit, once=self.attempt is None)
        return next((root for root in roots(self.head.head) if root.txid == entry.txid), entry)

    def _try_rewrite(self, plan: Rewriting, *, beside_readers: bool) -> Mapping[str, BlobKey]:
        self.head = self.store.head(self.pipeline)
        self._rewrites = frozenset(root.manifest for root in roots(self.head.head))
        changed: dict[str, tuple[BlobKey, int]] = {}
        for old, manifest in plan(self):
            stored = encode_manifest(manifest)
            key = BlobKey(self.store.hash.digest(stored), self.era)
            self._later.wait()
            self._put_manifest(key, stored)
            if str(key) != old:  # else it was gone, and is back under its own name
                changed[old] = (key, len(stored))
        if changed:
            proof = Proof(own_eras=frozenset(self._own_eras), borrowed_from=frozenset(changed))
            self.head = self.store.head(self.pipeline)
            try:
                self._swap(partial(rewrite, manifests=changed, proof=proof, beside_readers=beside_readers))
            except (BelowFloorError, ReuseLostError):
                # Perhaps its reply was lost and HEAD has moved on since: then the new keys show.
                self.head = self.store.head(self.pipeline)
                if {str(key) for key, _ in changed.values()}.isdisjoint(
                    root.manifest for root in roots(self.head.head)
                ):
                    raise
        return {old: key for old, (key, _) in changed.items()}

    def _put_manifest(self, key: BlobKey, stored: bytes) -> None:
        name = layout.manifest(self.pipeline, key)
        if not self.store.backend.create(name, stored):
            with self.store.backend.open(name) as file:
                if file.read() != stored:
                    message = f"other bytes lie under the name of a manifest: {name}"
                    raise PoisonedNameError(message)

    def _swap(self, edit: Callable[[Head], Head], *, once: bool = False) -> None:
        self.head = swap_head(
            self.store.backend, self.head, edit, self.store.ambient, txid=self.txid, attempt=self.attempt, once=once
        )

    # Bad luck.

    def _distrust(self) -> None:
        """Nothing uploaded before counts as confirmed; where HEAD cannot say so now, the next writer finds a note."""
        backend, ambient = self.store.backend, self.store.ambient
        try:
            # No commit: it is for everybody, also where a newer attempt has fenced this one off.
            txid = TxId(ambient.new_id())
            edit = partial(raise_era, floor=True)
            self.head = swap_head(backend, self.head, edit, ambient, txid=txid, attempt=None)
        except EoctlError:
            record = PinRecord(
                format="eoctl.pin",
                version=1,
                era=self.era,
                attempt=self.attempt or 0,
                host=ambient.host,
                process="",
                note=SYNC_FAILED,
            )
            with contextlib.suppress(EoctlError):  # the error being raised says all there is to say
                Pin(backend, self.pipeline, self.txid).refresh(record)

    def _overtaken(self) -> bool:
        """gc may have swept what this session counted on.

        Its era is below the floor, or its base is no root any more, or one is not that it has seen for a rewriting.
        """
        head = self.store.head(self.pipeline).head
        needed = self._rewrites if self._base_entry is None else self._rewrites | {self._base_entry.manifest}
        lost = not needed <= {root.manifest for root in roots(head)}
        return lost or any(key.era < head.floor for key in self._confirmed) or self.era < head.floor

    def _recover(self, trouble: EoctlError) -> None:
        """What can be kept is kept, in the newest era and against the newest base."""
        # A content is remembered once it has a place, which may have been promised for later (I1).
        self._own = {digest: file for digest, file in self._own.items() if self._is_confirmed(file)}
        if isinstance(trouble, PoisonedNameError):
            self.head = self.store.head(self.pipeline)
            self._swap(partial(raise_era, floor=False))
        self._carry_forward()
        self._rebase()

    def _rebase(self, read: CommittedHead | None = None) -> None:
        """Files are shared with the newest live checkpoint, or with none. `read`: HEAD as it is now."""
        if not self._based:
            return
        while True:
            self.head, read = read or self.store.head(self.pipeline), None
            newest = next((entry for entry in reversed(self.head.head.live) if entry.kind == "checkpoint"), None)
            if newest == self._base_entry:
                return
            try:
                base = None if newest is None else self.store.manifest(self.head.head, newest, thorough=False)
                break
            except BlobGoneError:
                if newest in set(roots(self.store.head(self.pipeline).head)):
                    raise  # damage, not a base that was expired and swept since HEAD was read
        self._base_entry, self._base_by_digest, self.base = newest, None, base
        if self.base is not None:
            self.pack_bytes.update({pack.key: pack.bytes for pack in self.base.packs})

    def _carry_forward(self) -> None:
        """What this session confirmed below the floor is confirmed again in a new era, as far as gc has left it."""
        self.head = self.store.head(self.pipeline)
        self.era = Era(self.head.head.era)
        for key, size in list(self._confirmed.items()):
            if key.era < self.head.head.floor:
                del self._confirmed[key]
                with contextlib.suppress(KeyAbsentError, PoisonedNameError):
                    moved_to = self.upload(key.digest, size, CopyOf(layout.blob(self.pipeline, key)))
                    if str(key) in self.pack_bytes:
                        self.pack_bytes[str(moved_to)] = size
        moved = [self._moved(file) for file in self._own.values()]
        self._own = {file.digest: file for file in moved if file is not None}

    def _is_confirmed(self, file: StateFile) -> bool:
        match file.place:
            case Whole() as place:
                return blob_key(file, place) in self._confirmed
            case Slice(pack=pack):
                return BlobKey.parse(pack) in self._confirmed
            case Blocks(packs=packs):
                return all(BlobKey.parse(pack) in self._confirmed for pack in packs)
            case Inline():
                return True
        assert_never(file.place)

    def _moved(self, file: StateFile) -> StateFile | None:
        """The same content at or above the floor; None where it has to be uploaded again."""
        if all(era >= self.head.head.floor for era in _eras_of(file.place)):
            return file
        match file.place:
            case Whole(digest=digest) as place:
                key = BlobKey(Digest(digest or file.digest), self.era)
                moved: Place = msgspec.structs.replace(place, era=self.era)
            case Slice(pack=pack) as place:
                key = BlobKey(BlobKey.parse(pack).digest, self.era)
                moved = msgspec.structs.replace(place, pack=str(key))
            case _:
                return None
        return msgspec.structs.replace(file, place=moved) if key in self._confirmed else None


def open_writer(store: Store, pipeline: PipelineId) -> tuple[Attempt, TxId]:
    """A new attempt of the pipeline, which exists after the call; every older attempt is fenced."""
    owner = TxId(store.ambient.new_id())
    current = store.make_pipeline(pipeline)
    edit = partial(open_attempt, owner=owner)
    opened = swap_head(store.backend, current, edit, store.ambient, txid=owner, attempt=None)
    return Attempt(opened.head.writer.attempt), owner


def entry_of(manifest: Manifest, key: BlobKey, stored_bytes: int) -> HeadEntry:
    """What HEAD says of the snapshot; its `seq` is known once it is committed."""
    stored_in = [file.first_stored_in for _, _, file in files_of(manifest)]
    added = stored_in.count(manifest.id)
    return HeadEntry(
        kind=manifest.kind,
        id=manifest.id,
        name=manifest.name,
        seq=0,
        txid=manifest.txid,
        created_at=manifest.created_at,
        attempt=manifest.attempt,
        engine=manifest.engine.kind,
        manifest=str(key),
        manifest_bytes=stored_bytes,
        full_bytes=manifest.metrics.full_bytes,
        added_bytes=manifest.metrics.added_bytes,
        files=len(stored_in),
        added_files=added,
        referenced_files=len(stored_in) - added,
        base=manifest.base,
        duration_micros=manifest.metrics.duration_micros,
        tags=manifest.tags,
    )


def _eras_of(place: Place) -> set[Era]:
    match place:
        case Whole(era=era):
            return {Era(era)}
        case Slice(pack=pack):
            return {BlobKey.parse(pack).era}
        case Blocks(tables=tables, packs=packs):
            return {BlobKey.parse(pack).era for pack in packs}.union(*(_eras_of(table.place) for table in tables))
        case Inline():
            return set()
    assert_never(place)
