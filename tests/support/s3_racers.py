"""Processes that race for one HEAD, all let go at once. Each is a fork of one that has imported everything."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from eoctl.ambient import system_ambient
from formats.errors import CommitUnknownError, EoctlError
from formats.ids import PipelineId
from storage.backend import Key, VersionMismatchError, version_of
from storage.backends.s3 import s3_place
from storage.session import Session, open_writer
from storage.store import open_store
from tests.support.places import Plan


class Field:
    """All racers."""

    def __init__(self, connections: list[Connection[Any, Any]]) -> None:
        self._connections = connections

    def say(self, word: object) -> None:
        for connection in self._connections:
            connection.send(word)

    def heard(self) -> list[Any]:
        """What each has to say next."""
        return [connection.recv() for connection in self._connections]


@contextmanager
def racing(count: int, racer: Callable[..., None], *arguments: object) -> Iterator[Field]:
    """The racers, ready; ended with the context."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "botocore.session", "tests.support.places"])
    processes = []
    connections = []
    for number in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=racer, args=(theirs, f"w{number}", *arguments), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        connections.append(ours)
    try:
        field = Field(connections)
        assert field.heard() == ["ready"] * count
        yield field
    finally:
        for process in processes:
            process.kill()
            process.join()


def swapper(referee: Connection[Any, Any], me: str, url: str, name: str) -> None:
    """Each word is a value that all have seen, which each replaces by one of its own."""
    key = Key(name)
    backend = s3_place(url, me).backend
    backend.stat(key)
    referee.send("ready")
    while True:
        seen = referee.recv()
        try:
            backend.swap(key, mine(seen, me), version_of(seen))
            referee.send("won")
        except VersionMismatchError:
            referee.send("lost")


def mine(seen: bytes, me: str) -> bytes:
    """What a racer puts in the place of `seen`."""
    return (seen + f" {me}".encode())[-200:]


def writer(referee: Connection[Any, Any], me: str, url: str, name: str, rounds: int) -> None:
    """Opens attempts and commits; says at the end which transactions it was told what of."""
    pipeline = PipelineId(name)
    told: dict[str, list[str]] = {"won": [], "refused": [], "unknown": []}
    store = open_store(s3_place(url, me), system_ambient())
    store.head(pipeline)
    referee.send("ready")
    referee.recv()
    for number in range(rounds):
        try:
            session = Session(store, pipeline, *open_writer(store, pipeline))
        except EoctlError:
            continue
        try:
            session.commit(Plan({"file": f"{me} {number}".encode()}))
            told["won"].append(session.txid)
        except CommitUnknownError:
            told["unknown"].append(session.txid)
        except EoctlError:
            told["refused"].append(session.txid)
    referee.send(told)
