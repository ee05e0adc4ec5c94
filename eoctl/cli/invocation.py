"""One run of the command line: the options that every command shares, and what they lead to.

Shared options may stand before or after the command; the last one counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from eoctl.cli.output import Form, Output
from eoctl.cli.settings import ChosenStore, Environment, choose_store
from formats.errors import UsageError

if TYPE_CHECKING:
    import typer

    from storage.backend import Place
    from storage.head import Ambient
    from storage.store import Store

_TOKEN_LENGTH = 12

Answer = TypeVar("Answer")


class Invocation:
    """What was asked for, in what form, and of which store."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.command = ""
        self._given: dict[str, str] = {}
        self._flags: set[str] = set()
        self._out: Output | None = None
        self._ambient: Ambient | None = None

    def give(self, name: str, value: str | bool) -> None:
        """An option was given; False says that a flag was not."""
        if isinstance(value, str):
            self._given[name] = value
        elif value:
            self._flags.add(name)

    @property
    def verbose(self) -> bool:
        return "verbose" in self._flags

    @property
    def out(self) -> Output:
        """Where the answer goes, in the form that was asked for."""
        if self._out is None:
            form = Form.JSONL if "jsonl" in self._flags else Form.JSON if "json" in self._flags else Form.TEXT
            self._out = Output(
                form=form,
                quiet="quiet" in self._flags,
                colour=not (self.environment.no_color or "no_color" in self._flags),
                columns=self.environment.columns,
            )
        return self._out

    @property
    def ambient(self) -> Ambient:
        """Clock and randomness of this run."""
        if self._ambient is None:
            from eoctl.ambient import system_ambient  # noqa: PLC0415  (start-up)

            self._ambient = system_ambient()
        return self._ambient

    def choose(self, url: str | None = None) -> ChosenStore:
        """The store that the options and settings name; `url` counts as `--store`. Raises: UsageError."""
        store = self._given.get("store")
        if url is not None and store is not None:
            raise UsageError(f"two stores are named: {url} and --store {store}", hint="name one of them")
        return choose_store(self.environment, url or store, self._given.get("profile"))

    def place(self, chosen: ChosenStore) -> Place:
        if self.verbose and not self.environment.completing:
            self.out.notice(f"{chosen.url} ({chosen.origin})", "store")
        from storage.backends.urls import open_place  # noqa: PLC0415  (start-up)

        records = self.environment.cache_home / "eoctl" / "endpoints"
        return open_place(chosen.url, self.ambient.new_id()[:_TOKEN_LENGTH], records)

    def open_store(self) -> Store:
        """The store; the embedded default is made on first use, with a notice.

        Raises: UsageError, StoreNotFoundError, CorruptError, UnsupportedError.
        """
        chosen = self.choose()
        return self._opened(chosen, self.place(chosen))

    def look(self, ask: Callable[[Store], Answer], *, at_head: bool) -> tuple[Store, Answer]:
        """The store, and what `ask` reads there.

        If that is `at_head`, a HEAD and no more, a store far away that this host knows is not opened first.
        Raises: as `open_store`; what `ask` raises.
        """
        from formats.errors import CorruptError, SnapshotNotFoundError  # noqa: PLC0415  (start-up)

        chosen = self.choose()
        place = self.place(chosen)
        if place.remote and at_head:
            from storage.known_stores import recalled  # noqa: PLC0415  (start-up)

            known = recalled(self._known_stores, place, self.ambient)
            if known is not None:
                # Perhaps there is another store now: then HEAD says so, or there is none.
                with contextlib.suppress(CorruptError, SnapshotNotFoundError):
                    return known, ask(known)
        store = self._opened(chosen, place)
        return store, ask(store)

    @property
    def _known_stores(self) -> Path:
        return self.environment.cache_home / "eoctl" / "stores"

    def _opened(self, chosen: ChosenStore, place: Place) -> Store:
        from formats.errors import ConflictError, StoreNotFoundError  # noqa: PLC0415  (start-up)
        from formats.ids import HashAlgorithm  # noqa: PLC0415  (start-up)
        from storage.store import init_store, open_store  # noqa: PLC0415  (start-up)

        try:
            store = open_store(place, self.ambient)
        except StoreNotFoundError:
            if not chosen.embedded:
                raise
        else:
            if place.remote:
                from storage.known_stores import remember  # noqa: PLC0415  (start-up)

                remember(self._known_stores, store)
            return store
        try:
            store = init_store(place, HashAlgorithm.BLAKE3, self.ambient)
        except ConflictError:
            return open_store(place, self.ambient)  # another process has made it meanwhile
        self.out.notice(f"made a store at {place.url}, as none is set (--store, EOCTL_STORE or a profile)")
        return store

    def open_other(self, url: str) -> Store:
        """A second store, which a command copies to or from. Raises: as `open_store`."""
        from storage.store import open_store  # noqa: PLC0415  (start-up)

        return open_store(self.place(choose_store(self.environment, url, None)), self.ambient)


def invocation_of(context: typer.Context) -> Invocation:
    """The run that the command belongs to."""
    found = context.find_object(Invocation)
    if found is None:
        from eoctl.cli.settings import read_environment  # noqa: PLC0415  (only shell completion starts without one)

        found = context.find_root().obj = Invocation(read_environment())
    return found
