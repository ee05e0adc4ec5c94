"""Configurations that are explored to the end, and mutants: each breaks one rule and is caught in one of them."""

from __future__ import annotations

from typing import NamedTuple

from tests.model.protocol import Actor, Config


def writer(*plans: str) -> Actor:
    return Actor("writer", plans)


def saver(*plans: str, pipe: int = 0) -> Actor:
    return Actor("saver", plans, pipe)


READER = Actor("reader")
REPACKER = Actor("repacker")
FORKER = Actor("forker", pipe=1)

# Seconds each: explored to the end in every run of the tests.
SMALL = {
    "gc": Config((writer("a", "a"), saver("a")), eras=3),
    "eras": Config((saver("a"),), eras=4),
    "restart": Config((writer("a", "a"),), eras=3, attempts=2, crash=True),
    "fencing": Config((writer("a"), writer("a")), attempts=3, crash=True, lossy=True, eras=1),
    "unknown": Config((writer("a"), saver("a")), eras=2, lossy=True, crash=True),
    "two files": Config((writer("ab", "a"),), eras=3, crash=True, attempts=2),
    "twins": Config((writer("a", "x"),), eras=3),
    "holds": Config((writer("a"), READER), eras=3),
    "undelete": Config((writer("a"), saver("a")), eras=3, undelete=True),
    "poison": Config((writer("a"), saver("a")), eras=3, poison=1),
    "destroy": Config((writer("a"), saver("a")), eras=3, destroy=True),
    "lost HEAD": Config((saver("a"),), eras=4, lose=True, floors=False),
    "lost attempt": Config((writer("a"), writer("a")), eras=3, attempts=3, lose=True, expire=False),
    "disk": Config((writer("a"), saver("a")), eras=3, disk=True),
    "disk, one era": Config((writer("a"), saver("a")), eras=1, disk=True),
    "fsync": Config((writer("a", "a"),), eras=3, attempts=3, disk=True, fsync="lies"),
    "fsync, two": Config((writer("a"), saver("a")), eras=2, disk=True, fsync="fails"),
    "packs": Config((writer("ab", "a"), REPACKER), eras=4, packs=True, floors=False),
    "packs, reader": Config((writer("ab", "a"), READER, REPACKER), eras=3, packs=True, floors=False),
    "packs, saver": Config((saver("ab", "a"), saver("ab"), REPACKER), eras=2, packs=True, floors=False),
    "fork": Config((writer("a"), FORKER), eras=3, floors=False),
}


# Minutes: in the long lane.
MEDIUM = {
    "three, two eras": Config((writer("a"), writer("a"), saver("a")), attempts=2, lossy=True, crash=True),
    "lost HEAD, two commits": Config((saver("a", "a"),), eras=4, lose=True, floors=False),
    "restarts": Config((writer("a"), saver("a")), eras=3, attempts=2, lossy=True, crash=True),
    "readers": Config((writer("a", "a"), saver("a"), READER), eras=3, undelete=True, crash=True),
    "forks": Config((writer("ab", "a"), saver("a"), FORKER), eras=2),
    "forks, crashes": Config((writer("a"), FORKER), eras=3, crash=True),
    "unknown, destroy": Config(
        (writer("a"), saver("a")), attempts=2, lossy=True, crash=True, destroy=True, undelete=True
    ),
    "unknown, lost HEAD": Config((writer("a"), saver("a")), eras=3, lossy=True, lose=True, floors=False),
    "disk, poison": Config((writer("a"), saver("a")), disk=True, poison=1, fsync="fails"),
    "packs, crashes": Config((writer("ab", "a"), saver("a"), REPACKER), packs=True, crash=True, floors=False),
}

# By hand: python -m tests.model --config NAME.
LARGE = {
    "three": Config((writer("a"), writer("a"), saver("a")), eras=3, attempts=2, lossy=True, crash=True),
}

# What the protocol does not promise: here the exploration has to find a loss (docs/model.md).
LIMITS = {
    "limit: fsync, two sessions": Config((writer("a"), saver("a")), disk=True, fsync="lies"),
    "limit: fsync, killed": Config((writer("a", "a"),), attempts=2, disk=True, fsync="lies", early=True),
}


class Mutant(NamedTuple):
    rule: str
    where: str
    invariant: str


_UNKNOWN = "an unknown outcome is settled by reading HEAD back"

MUTANTS = {
    # Named in the first model.
    "no floor check": Mutant("commit rule (b): not below the floor", "gc", "I1"),
    "no base re-check": Mutant("commit rule (a): checked against the value that is swapped", "gc", "I1"),
    "no CAS": Mutant("HEAD changes by compare-and-swap only", "unknown", "I6"),
    "key without era": Mutant("the era is part of the key", "gc", "I1"),
    "sweep before the swap is committed": Mutant("gc acts on a committed HEAD", "gc", "I1"),
    "floor moves back": Mutant("the floor never goes back", "eras", "I1"),
    "commit rule off by one": Mutant("era >= floor", "gc", "I1"),
    "delete rule off by one": Mutant("era < floor", "gc", "I1"),
    "clean-up on an unknown outcome": Mutant("an unknown outcome deletes nothing", "unknown", "I1"),
    "trash is no root": Mutant("trash is a root", "gc", "I1"),
    "era renewed without re-upload": Mutant("what is carried forward is confirmed again", "gc", "I1"),
    "unreadable manifest is empty": Mutant("gc stops at a manifest that it cannot read", "gc", "I1"),
    "no fencing": Mutant("a commit compares attempt and owner", "fencing", "I5"),
    # Named in the second.
    "rule (b) by the session's era": Mutant("rule (b) reads the era in the key", "restart", "I1"),
    "copies not confirmed": Mutant("a copy is confirmed like an upload", "gc", "I1"),
    "old manifest copied forward": Mutant("a new manifest names the new keys", "gc", "I1"),
    "manifest key outside the rule": Mutant("the manifest's own key is under the rule", "two files", "I1"),
    "manifest not uploaded": Mutant("the manifest is stored before the swap", "gc", "I1"),
    "gc blind to manifests": Mutant("a root refers to its manifest", "gc", "I1"),
    "gc blind to holds": Mutant("a hold is a root", "holds", "I"),
    "undelete from memory": Mutant("undelete takes the trash of the value swapped", "undelete", "I1"),
    "hold from memory": Mutant("a hold equals a root of the value swapped", "holds", "I"),
    "own uploads deleted after a failure": Mutant("a failure deletes nothing", "fencing", "I1"),
    "attempt by number": Mutant("an attempt is ours if the owner is", "fencing", "I5"),
    "giving up without a no-op": Mutant("giving up first makes late copies stale", "unknown", "I2"),
    "failure reported unseen": Mutant(_UNKNOWN, "unknown", "I2"),
    "savepoint applied again": Mutant("a savepoint is not applied again after an unknown outcome", "unknown", "I2"),
    "m/ stands for o/": Mutant("a manifest's key never stands for a blob's", "twins", "I1"),
    '"exists" not compared': Mutant("what exists is compared before it counts", "poison", "I1"),
    "destroyed HEAD advanced": Mutant("a destroyed HEAD does not change", "destroy", "I3"),
    "old HEAD put back": Mutant("an old HEAD is never put back", "lost HEAD", "I1"),
    "rebuilt in place": Mutant("rebuilding copies every key into a new era", "lost HEAD", "I1"),
    "no fsync of the directory": Mutant("confirmed means durable", "disk, one era", "I1"),
    'no fsync on "exists"': Mutant("what exists is synced before it counts", "disk, one era", "I1"),
    "gc on an unsynced HEAD": Mutant("gc acts on a HEAD that a power loss cannot take back", "disk", "I1"),
    "success on an unsynced HEAD": Mutant("success is told of a durable HEAD", "disk, one era", "I2"),
    # New parts.
    "pack is garbage while one slice is needed": Mutant("a pack lives while any slice is referenced", "packs", "I1"),
    "repack without the commit rule": Mutant("rewrite checks the floor", "packs", "I1"),
    "repack from a stale HEAD": Mutant("rewrite edits the value that it swaps", "packs", "I"),
    "repacked slices not confirmed": Mutant("the new pack is confirmed", "packs", "I1"),
    "repacked manifests not uploaded": Mutant("the new manifests are confirmed", "packs", "I1"),
    "repack deletes the old pack": Mutant("only the delete rule deletes", "packs, saver", "I1"),
    "repack moves holds": Mutant("a hold keeps the manifest that its reader has read", "packs, reader", "I7"),
    "read what was there before the hold": Mutant("a reader reads the manifest that it holds", "packs, reader", "I7"),
    "fork without a hold": Mutant("a fork reads under a hold on its source", "fork", "I7"),
    "hold released before the copy is done": Mutant("the hold lasts as long as the copying", "fork", "I7"),
    "fork names the source's keys": Mutant("a fork copies into the target's era", "fork", "I11"),
    "fork does not confirm its copies": Mutant("a fork confirms its copies", "fork", "I1"),
    "floor not raised after a failed fsync": Mutant(
        "after a failed fsync the floor rises with the era", "fsync, two", "I1"
    ),
    "failed fsync tried again": Mutant("a failed fsync is final", "fsync", "I1"),
    "note ignored": Mutant("the next writer raises era and floor first", "fsync", "I1"),
    "attempt kept on rebuild": Mutant("a rebuilt HEAD has a new attempt", "lost attempt", "I5"),
    "era kept on rebuild": Mutant("a rebuilt HEAD has a new era", "lost HEAD", "I1"),
    "floor kept on rebuild": Mutant("a rebuilt HEAD's floor is its era", "lost HEAD", "I1"),
    "rebuild does not check its copies": Mutant("rebuilding confirms its copies", "lost HEAD", "I1"),
    "HEAD without nonce": Mutant("bytes of HEAD never occur twice", "unknown", "I"),
}
