"""The billing example of the documentation: the module itself, what it has to charge, and what it did."""

from __future__ import annotations

import email
import importlib.util
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from eoctl.library import open_store
from formats.errors import FencedError, UnavailableError
from formats.ids import BlobKey, PipelineId
from storage import layout
from storage.store import Store
from tests.support.stopping import stand_still

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "examples" / "billing.py"
Invoice = tuple[str, str, int, int, int, int]


def load() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("billing_example", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load()


def events_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def expected(events: Iterable[dict[str, Any]]) -> list[Invoice]:
    """What these events cost, counted without a pipeline."""
    usage: Counter[tuple[str, int]] = Counter()
    for event in events:
        usage[event["customer"], event["time"] - event["time"] % example.HOUR] += event["units"]
    return sorted(
        example.invoice_of((customer, start, start + example.HOUR, units)) for (customer, start), units in usage.items()
    )


def bookings(invoices: list[Invoice]) -> list[tuple[str, str, int]]:
    return [(one[0], one[1], one[5]) for one in invoices]


def mails_of(invoices: list[Invoice]) -> dict[str, tuple[str, str]]:
    """Of each mail that is due, by key, the receiver and what it says."""
    return {
        one[0]: (f"{one[1]}@example.com", f"{one[4]} units, {one[5] // 100}.{one[5] % 100:02} EUR") for one in invoices
    }


def mails_in(folder: Path) -> dict[str, tuple[str, str]]:
    found = {}
    for path in folder.glob("*.eml"):
        mail = email.message_from_bytes(path.read_bytes())
        assert mail["Message-ID"] == f"<{path.stem}@billing.example>"
        found[path.stem] = (str(mail["To"]), str(mail.get_payload()).strip())
    return found


def invoices_in(database: Path) -> list[Invoice]:
    with closing(sqlite3.connect(database)) as connection:
        return sorted(connection.execute("SELECT * FROM invoices").fetchall())


def ledger_in(folder: Path) -> list[tuple[str, str, int]]:
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(tuple(json.loads(line)) for line in lines)


def check_files(folder: Path) -> None:
    """Invoices in SQLite, ledger and mails in files are exactly what is due."""
    due = expected(events_in(folder / "in"))
    assert invoices_in(folder / "invoices.db") == due
    assert ledger_in(folder / "ledger") == bookings(due)
    assert mails_in(folder / "mails") == mails_of(due)


def command(store: Path) -> list[str]:
    return [sys.executable, "-m", "eoctl.cli.main", "run", str(FILE), "--store", str(store), "--take-over", "--json"]


def killed_often(
    store: Path, folder: Path, kills: int, settings: Mapping[str, str], *, more: Callable[[int], None]
) -> None:
    """The example was killed so many times, at its start or at work, and then ran to its end.

    `more(n)` brings the input of life n: whole hours that nobody has used anything in before.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BILLING_DIR": str(folder),
        "TMPDIR": str(store.parent),
        **settings,
    }
    rng = random.Random(kills)
    killed = lives = 0
    while killed < kills:
        assert lives < 3 * kills + 10, f"killed {killed} times in {lives} lives"
        more(lives)
        lives += 1
        with subprocess.Popen(
            command(store), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            if rng.random() < 0.8:
                told = process.stderr.readline()  # it has restored, and begins
                assert b'"notice": "attempt' in told, told + process.stderr.read()
                wait = rng.random() * 0.4
            else:
                wait = rng.random()
            try:
                process.wait(timeout=wait)
                assert process.returncode == 0, process.stderr.read()
            except subprocess.TimeoutExpired:
                killed += 1
                process.send_signal(signal.SIGKILL)
            process.communicate()
    done = subprocess.run(command(store), env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def damage_newest(store: Store) -> str:
    """The manifest of the newest checkpoint is no longer what it was; its label."""
    pipeline = PipelineId("billing")
    entry = store.head(pipeline).head.live[-1]
    path = Path(store.place.url) / str(layout.manifest(pipeline, BlobKey.parse(entry.manifest)))
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    return entry.label


def stopped_and_overtaken(store: Path, folder: Path, settings: Mapping[str, str]) -> str:
    """An attempt stood still while its successor ran to the end, and woke up then: what it had to say."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "BILLING_DIR": str(folder),
        "TMPDIR": str(store.parent),
        **settings,
    }
    with subprocess.Popen(command(store), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as zombie:
        assert zombie.stderr is not None
        first = zombie.stderr.readline()  # it began
        head = open_store(store)._store.head
        while not head(PipelineId("billing")).head.live:
            assert zombie.poll() is None, "a checkpoint is complete before everything is read"
        assert stand_still(zombie)
        try:
            done = subprocess.run(command(store), env=environment, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr.decode()
        finally:
            zombie.send_signal(signal.SIGCONT)
        told = (first + zombie.communicate()[1]).decode()
    assert zombie.returncode in {FencedError.exit_code, UnavailableError.exit_code}, told
    return told
