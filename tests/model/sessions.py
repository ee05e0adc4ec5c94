"""Sessions: open, upload, confirm, manifest, commit, and all that may go wrong between [session.py, head.swap_head]."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tests.model.explorer import POWER, Move, ViolationError
from tests.model.protocol import Proc, Protocol
from tests.model.world import Head, Says, World


class Sessions(Protocol):
    def moves_of(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        for move in self._moves(world, proc, index):
            stale = move.others == self.config.actors[index].pipe and self.broken != "no CAS"
            yield move._replace(actor=move.actor._replace(late=None)) if stale else move

    def _moves(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        if proc.late is not None:
            head, tx, owner = proc.late
            yield self._lands(f"a late request of {index}", world, proc._replace(late=None), index, head, tx, owner)
        match proc.at:
            case "idle":
                yield from self.idle(world, proc, index)
            case "work":
                yield from self._work(world, proc, index)
            case "distrust":
                yield from self._distrust(world, proc, index)
            case _:
                yield from self._in_flight(world, proc, index)
        if (self.config.crash and proc.at not in {"idle", "distrust"}) or (self.config.early and proc.at == "distrust"):
            yield Move(f"{index} crashes", world, self._dead(proc, index))

    def overtaken(self, proc: Proc, index: int, pipe: int) -> Proc:
        if pipe == POWER:
            return self._dead(proc, index)._replace(late=None)
        if pipe != self.config.actors[index].pipe or self.broken == "no CAS":
            return proc
        proc = proc._replace(late=None)
        return proc._replace(at="stale", sent=None) if proc.at == "sent" else proc

    def _dead(self, proc: Proc, index: int) -> Proc:
        """What a restart finds: its notes of confirmed keys. Its request may still be under way."""
        late = self._request(proc, index) if proc.at == "sent" else proc.late
        return self.done(proc)._replace(owner=0, attempt=0, late=late, confirmed=proc.confirmed, entry=None)

    def done(self, proc: Proc) -> Proc:
        """Between two sessions; or a writer that could not open."""
        kept = Proc(n=proc.n, opened=proc.opened, late=proc.late, entry=proc.entry)
        if proc.job == "open":
            return kept._replace(confirmed=proc.confirmed)
        return kept._replace(attempt=proc.attempt, owner=proc.owner)

    def _request(self, proc: Proc, index: int) -> tuple[Head, int, int] | None:
        if proc.sent is None:
            return None
        return proc.sent, self.tx(proc, index) if proc.job == "commit" else 0, proc.owner

    # Open and begin.

    def idle(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        actor = self.config.actors[index]
        world = self.store.read(world)
        head = world.heads[actor.pipe]
        if head.state != "active" or proc.n == len(actor.plans):
            return
        if actor.kind == "writer" and not proc.owner:
            if proc.opened == self.config.opens:
                return
            opening = proc._replace(opened=proc.opened + 1, owner=8 * index + proc.opened + 1)
            yield from self._open(world, opening, index)
        elif actor.kind == "writer" and world.note and self.broken != "note ignored":
            if head.era < self.config.eras:  # [writers._distrust_lost_writes]
                raised = head._replace(era=head.era + 1, floor=head.era + 1)
                after = self.store.swap(world, actor.pipe, raised)._replace(note=False)
                yield Move(f"{index} finds the note and raises era and floor", after, proc, actor.pipe)
        else:
            yield from self.begin(world, proc, index, actor.plans[proc.n])

    def _open(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        """[session.open_writer] An edit that is applied again with the same owner as long as that does not show."""
        head = world.heads[self.config.actors[index].pipe]
        if head.state == "active" and head.attempt < self.config.attempts:
            new = head._replace(attempt=head.attempt + 1, owner=proc.owner, last_tx=-proc.owner)
            opening = proc._replace(at="sent", job="open", attempt=new.attempt, sent=new)
            yield from self._send(f"{index} opens attempt {new.attempt}", world, opening, index)

    def begin(self, world: World, proc: Proc, index: int, contents: str) -> Iterator[Move]:
        """A session: its era, and for each content a key that it may name if the commit rule still says so then."""
        pipe = self.config.actors[index].pipe
        head = world.heads[pipe]
        notes = proc.confirmed & ~self.store.below(pipe, head.floor)
        working = proc._replace(at="work", job="commit", n=proc.n + 1, era=head.era, confirmed=notes)
        for plan, own in self._plans(head, contents, notes, pipe):
            told = ", ".join(self.store.told(bit) for _, bit in plan)
            yield Move(f"{index} plans {told}", world, working._replace(plan=plan, own=own))

    def _plans(self, head: Head, contents: str, notes: int, pipe: int) -> set[tuple[Says, int]]:
        """Each content: a key that some root names, or one confirmed before a crash, or a new one."""
        store = self.store
        options = []
        for content in contents:
            named = {bit for _, m in head.roots() for c, bit in store.says(m) if c == content}
            if self.broken == "m/ stands for o/" and content == "x":
                named |= {store.blob(pipe, "x", store.key(m).era) for _, m in head.roots()}
            ours = {b for b in store.each(notes) if store.key(b).kind == "o" and content in store.contents(b)}
            ours |= {store.blob(pipe, content, head.era)}
            options.append([(bit, 0) for bit in named] + [(bit, bit) for bit in ours - named])
        plans = set()
        for chosen in itertools.product(*options):
            own = 0
            for _, mine in chosen:
                own |= mine
            plans.add((tuple(zip(contents, (bit for bit, _ in chosen), strict=True)), own))
        if self.config.packs and len(contents) > 1:
            pack = store.blob(pipe, contents, head.era)
            plans.add((tuple((content, pack) for content in contents), pack))
        return plans

    # Upload.

    def _work(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        """Blobs, then the manifest, then HEAD: what a later one names is durable before it."""
        missing = proc.own & ~proc.confirmed
        if missing:
            yield from self.upload(world, proc, index, missing & -missing)
        elif proc.job == "rewrite":
            yield from self.rewrite(world, proc, index)
        else:
            manifest = self._manifest(proc, index)
            if manifest & proc.confirmed or self.broken == "manifest not uploaded":
                yield from self._commit(world, proc, index, manifest)
            else:
                yield from self.upload(world, proc, index, manifest)

    def _manifest(self, proc: Proc, index: int) -> int:
        return self.store.manifest(self.config.actors[index].pipe, proc.says or proc.plan, proc.era)

    def rewrite(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        raise NotImplementedError

    def upload(self, world: World, proc: Proc, index: int, bit: int) -> Iterator[Move]:
        """[Blobs.put, backends/local.py create] Create if absent; where it exists, compare."""
        name = self.store.told(bit)
        there = bit & (world.present | world.linked | world.suspect)
        sure = proc._replace(confirmed=proc.confirmed | bit, linking=0)
        if bit & world.poison:
            if self.broken == '"exists" not compared':
                yield Move(f"{index} takes {name} for its own", world, sure)
            else:
                yield from self._poisoned(world, proc, index, bit)
            return
        if not there and world.poison.bit_count() < self.config.poison:
            yield Move(f"other bytes turn up under {name}", world._replace(poison=world.poison | bit), proc)
        if not self.config.disk:
            yield Move(f"{index} uploads {name}", world._replace(present=world.present | bit), sure)
        elif proc.linking == bit:
            yield from self._sync(world, sure, index, bit)
        else:
            linked = world._replace(linked=world.linked | (0 if there else bit))
            trusting = self.broken == "no fsync of the directory" or (there and self.broken == 'no fsync on "exists"')
            after = sure if trusting else proc._replace(linking=bit)
            yield Move(f"{index} links {name}{', which exists' if there else ''}", linked, after)

    def _sync(self, world: World, sure: Proc, index: int, bit: int) -> Iterator[Move]:
        """The fsync of a directory. Once it failed, a later one may succeed and prove nothing."""
        name = self.store.told(bit)
        failed = sure._replace(confirmed=sure.confirmed & ~bit, at="distrust", linking=0)
        if bit & world.suspect:
            lies = not world.erring
            yield Move(f"{index} syncs {name}, which {'lies' if lies else 'fails'}", world, sure if lies else failed)
            return
        durable = world._replace(linked=world.linked & ~bit, present=world.present | bit)
        yield Move(f"{index} syncs {name}", durable, sure)
        if self.config.fsync and bit & world.linked and not world.suspect:
            lost = world._replace(linked=world.linked & ~bit, suspect=bit, erring=self.config.fsync == "fails")
            if self.broken == "failed fsync tried again":
                failed = failed._replace(at="work", linking=bit)
            yield Move(f"{index} syncs {name}, and the disk fails", lost, failed)

    def _distrust(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        """[Session._distrust] The attempt is dead; era and floor rise at once, or a note has the next writer do it."""
        world = self.store.read(world)
        pipe = self.config.actors[index].pipe
        head = world.heads[pipe]
        world = world._replace(failed=world.failed | self.tx(proc, index), erring=False)
        if head.state == "active" and head.era < self.config.eras:
            floor = head.floor if self.broken == "floor not raised after a failed fsync" else head.era + 1
            raised = self.store.swap(world, pipe, head._replace(era=head.era + 1, floor=floor))
            yield Move(f"{index} raises era and floor", raised, self.done(proc), pipe)
        if self.config.fsync == "lies":
            yield Move(f"{index} leaves a note", world._replace(note=True), self.done(proc))

    def _poisoned(self, world: World, proc: Proc, index: int, bit: int) -> Iterator[Move]:
        """[Session._recover] Other bytes are left alone; era + 1, and that key (or the manifest) in the new era."""
        world = self.store.read(world)
        pipe = self.config.actors[index].pipe
        head = world.heads[pipe]
        if head.state != "active" or head.era >= self.config.eras:
            return
        raised = head._replace(era=head.era + 1)
        after = self.carry(proc, index, raised, {bit})
        if proc.job == "rewrite":
            after = self.done(proc)
        yield Move(f"{index} raises the era", self.store.swap(world, pipe, raised), after, pipe)

    # Commit.

    def _commit(self, world: World, proc: Proc, index: int, manifest: int) -> Iterator[Move]:
        """HEAD is read again and the commit rule checked against that very value; then the swap [edits.commit]."""
        actor = self.config.actors[index]
        world = self.store.read(world)
        head = world.heads[actor.pipe]
        if head.state == "lost":
            return
        if head.state != "active" or self._fenced(head, proc, index):
            yield self._fails(f"{index} is refused", world, proc._replace(owner=0), index)
            return
        named = {bit for _, bit in proc.plan} | {manifest}
        bad = {bit for bit in named if not self.allowed(head, proc, bit)}
        if self.broken == "manifest not uploaded":
            bad.discard(manifest)
        if bad:
            label = f"{index} carries {', '.join(map(self.store.told, bad))} into era {head.era}"
            yield Move(label, world, self.carry(proc, index, head, bad, world.doomed))
            return
        tx = self.tx(proc, index)
        new = head._replace(live=(*head.live, (tx, manifest)), last_tx=tx if actor.kind == "writer" else head.last_tx)
        yield from self._send(f"{index} commits", world, proc._replace(at="sent", sent=new), index)

    def _fenced(self, head: Head, proc: Proc, index: int) -> bool:
        if self.config.actors[index].kind != "writer" or self.broken == "no fencing":
            return False
        if self.broken == "attempt by number":
            return head.attempt != proc.attempt
        return (head.attempt, head.owner) != (proc.attempt, proc.owner)

    def carry(self, proc: Proc, index: int, head: Head, bad: set[int], gone: int = 0) -> Proc:
        """Keys that may not be named are copied or uploaded again in the era of `head`, and confirmed there.

        Whether a copy finds its source makes no difference: where it does not, the file is uploaded.
        """
        store, pipe = self.store, self.config.actors[index].pipe
        plan, own, trusted = [], proc.own, 0
        for content, bit in proc.plan:
            new = bit
            if bit in bad:
                new = store.blob(pipe, store.contents(bit) if bit & proc.own else content, head.era)
                own = own & ~bit | new
                if self.broken == "era renewed without re-upload" or (
                    self.broken == "copies not confirmed" and bit & proc.own & gone
                ):
                    trusted |= new
            plan.append((content, new))
        confirmed = proc.confirmed & ~store.below(pipe, head.floor) | trusted
        says = proc.says or proc.plan if self.broken == "old manifest copied forward" else ()
        return proc._replace(era=head.era, plan=tuple(plan), own=own, confirmed=confirmed, says=says, linking=0)

    def _send(self, label: str, world: World, proc: Proc, index: int) -> Iterator[Move]:
        """The request is under way. Where no reply gets lost it lands at once; on a disk, before it is synced."""
        if self.config.lossy:
            yield Move(label, world, proc)
            return
        head, tx, owner = self._request(proc, index) or (Head(), 0, 0)
        move = self._lands(label, world, proc._replace(at="landed", sent=None), index, head, tx, owner)
        if not self.config.disk:
            move = self._succeeds(move.label, move.world, move.actor, index)._replace(others=move.others)
        yield move

    def _lands(self, label: str, world: World, proc: Proc, index: int, new: Head, tx: int, owner: int) -> Move:
        """The swap takes effect. I5: a writer's commit only under the newest attempt, and that is its own."""
        actor = self.config.actors[index]
        head = world.heads[actor.pipe]
        newest = max(head.attempt, world.lost.attempt if world.lost else 0)
        if actor.kind == "writer" and tx and (head.owner != owner or head.attempt < newest):
            raise ViolationError("I5: a commit by a writer whose attempt is not the newest", label)
        if proc.at == "sent":
            proc = self.overtaken(proc, index, actor.pipe)
        return Move(label, self.store.swap(world, actor.pipe, new, tx), proc, actor.pipe)

    # Replies, and their loss [head.swap_head].

    def _in_flight(self, world: World, proc: Proc, index: int) -> Iterator[Move]:
        pipe = self.config.actors[index].pipe
        head = world.heads[pipe]
        request = self._request(proc, index)
        unsure = self.done(proc)._replace(late=request if proc.at == "sent" else None)
        if request is not None:
            landed = proc._replace(at="landed", sent=None)
            yield self._lands(f"the request of {index} lands", world, landed, index, *request)
        if proc.at == "sent":
            barrier = self._fails(f"{index} gives up after a no-op", world, proc, index)
            if self.broken in {"giving up without a no-op", "HEAD without nonce"}:
                yield barrier._replace(actor=unsure)
            else:
                swapped = self.store.swap(barrier.world, pipe, head)
                yield barrier._replace(world=swapped, others=pipe)
            yield Move(f"{index} gives up, unknown", world, unsure)
        if proc.at == "landed":
            synced = world if self.broken == "success on an unsynced HEAD" else self.store.read(world)
            yield self._succeeds(f"{index} is told of its success", synced, proc, index)
        if self.config.disk:
            return
        if proc.job == "commit" and self.broken == "failure reported unseen":
            yield self._fails(f"{index} gets no reply", world, proc, index)._replace(actor=unsure)
        if proc.job == "commit" and self.broken == "clean-up on an unknown outcome":
            yield Move(
                f"{index} gets no reply, cleans up", world._replace(doomed=world.doomed | proc.confirmed), unsure
            )
        if head.state != "lost" and proc.at != "sent":
            if proc.at == "stale":
                yield from self._settle(world, proc, index, unknown=False)
            yield from self._settle(world, proc, index, unknown=True)

    def _settle(self, world: World, proc: Proc, index: int, *, unknown: bool) -> Iterator[Move]:
        """HEAD is read back; it has moved since, or shows us. `unknown`: no reply told that the swap was refused."""
        actor = self.config.actors[index]
        head = world.heads[actor.pipe]
        label = f"{index} reads back after {'no reply' if unknown else 'a refusal'}"
        if proc.job == "open":
            if head.owner == proc.owner or (self.broken == "attempt by number" and head.attempt == proc.attempt):
                yield self._succeeds(label, world, proc._replace(attempt=head.attempt), index)
            elif head.state == "active":
                yield from self._open(world, proc._replace(sent=None), index)
            return
        tx = self.tx(proc, index)
        if head.last_tx == tx or any(tx == root for root, _ in head.roots()):
            yield self._succeeds(f"{label}: it was ours", world, proc, index)
            return
        again = proc._replace(at="work", sent=None)
        if actor.kind == "writer":
            fenced = self._fenced(head, proc, index)
            lost = fenced and unknown
        else:
            fenced = False
            lost = unknown and self.broken != "savepoint applied again"
        if lost:
            yield Move(f"{label}: CommitUnknownError", world, self.done(proc)._replace(owner=0))
        elif fenced:
            yield self._fails(f"{label}: FencedError", world, proc._replace(owner=0), index)
        else:
            yield Move(f"{label}: again", world, again)

    def _succeeds(self, label: str, world: World, proc: Proc, index: int) -> Move:
        tx = self.tx(proc, index) if proc.job == "commit" else 0
        after = self.done(proc)._replace(attempt=proc.attempt, owner=proc.owner)
        return Move(label, world._replace(told=world.told | tx), after)

    def _fails(self, label: str, world: World, proc: Proc, index: int) -> Move:
        """A certain failure deletes nothing either: another session of the era may count on what was uploaded."""
        tx = self.tx(proc, index) if proc.job == "commit" else 0
        if self.broken == "own uploads deleted after a failure":
            world = world._replace(doomed=world.doomed | proc.confirmed)
        return Move(label, world._replace(failed=world.failed | tx), self.done(proc))
