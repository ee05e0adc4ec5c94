"""How many requests each command sends to S3, and what these cost.

    python -m scripts.benchmarks.s3_requests                          # 10, 1,000 and 100,000 files, about two minutes
    python -m scripts.benchmarks.s3_requests --files 10 1000 --write docs/s3-costs.md

Counted where the HTTP library sends, so every repetition and every part of an upload counts. The commands are those of
the command line, run in this process against SeaweedFS on loopback. Prices are dollars for 1,000 requests; those of
S3 Standard in us-east-1 unless told.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.httpsession import URLLib3Session

from eoctl.cli.main import main as eoctl
from scripts.s3_server import s3_server

CLASSES = ("GET", "HEAD", "PUT", "COPY", "LIST", "parts", "DELETE")
OLD_NS = 1_600_000_000_123_456_789  # a time of which every tick of a clock is over
BEGIN, END = "<!-- begin: scripts.benchmarks.s3_requests -->", "<!-- end -->"
CHANGED = 100  # every so many files one changes


def class_of(method: str, url: str, headers: Mapping[str, str]) -> str:
    """What a request is billed as. `parts`: whatever a multipart upload needs."""
    query = parse_qs(urlsplit(url).query, keep_blank_values=True)
    if "uploads" in query and method == "GET":
        return "LIST"
    if query.keys() & {"uploads", "uploadId"}:
        return "parts"
    if method in {"POST", "DELETE"}:
        return "DELETE"
    if method == "GET":
        return "LIST" if query.keys() & {"list-type", "prefix", "delimiter"} else "GET"
    copied = any(name.lower() == "x-amz-copy-source" for name in headers)
    return "COPY" if copied else method


class Requests:
    """Counts what this process sends to S3, while it is a context."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.log: list[str] = []

    def __enter__(self) -> Self:
        self._real = real = URLLib3Session.send

        def send(session: URLLib3Session, request: AWSPreparedRequest) -> AWSResponse:
            kind = class_of(request.method, request.url, request.headers)
            self.counts[kind] += 1
            self.log.append(f"{kind:6} {urlsplit(request.url).path}?{urlsplit(request.url).query}")
            return real(session, request)

        URLLib3Session.send = send
        return self

    def __exit__(self, *_: object) -> None:
        URLLib3Session.send = self._real


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Dollars for 1,000 requests."""

    put: float
    get: float

    def of(self, counts: Counter[str]) -> float:
        dear = sum(counts[name] for name in ("PUT", "COPY", "LIST", "parts"))
        cheap = counts["GET"] + counts["HEAD"]
        return (dear * self.put + cheap * self.get) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One command on a state of so many files."""

    files: int
    what: str
    counts: Counter[str]


def measured(files: int, url: str, home: Path) -> Iterator[Row]:
    """Each command in turn, on a store of its own."""
    state = home / "state"
    _write(state, files)
    steps: list[tuple[str, Sequence[str]]] = [
        ("store init", ("store", "init")),
        ("first checkpoint", ("checkpoint", "create", str(state), "-p", "orders")),
        ("checkpoint, 1 % changed", ("checkpoint", "create", str(state), "-p", "orders")),
        ("checkpoint, nothing changed", ("checkpoint", "create", str(state), "-p", "orders")),
        ("checkpoint list -p", ("checkpoint", "list", "-p", "orders")),
        ("checkpoint verify, quick", ("checkpoint", "verify", "-p", "orders", "--level", "quick")),
        ("restore", ("restore", "orders@latest", "--to", str(home / "restored"))),
        ("gc, one expires", ("gc", "-p", "orders", "--keep-last", "2", "--grace", "0", "--keep-trash", "0")),
        ("gc, its bytes go", ("gc", "-p", "orders", "--keep-last", "2", "--grace", "0", "--keep-trash", "0")),
        ("gc, nothing to do", ("gc", "-p", "orders", "--keep-last", "2")),
    ]
    for what, words in steps:
        if "1 %" in what:
            _change(state, files)
        yield Row(files=files, what=what, counts=run(url, *words))
    shutil.rmtree(home)


def run(url: str, *words: str) -> Counter[str]:
    """The requests of one command, which has to succeed."""
    out, err = io.StringIO(), io.StringIO()
    with Requests() as requests, redirect_stdout(out), redirect_stderr(err):
        code = eoctl([*words, "--store", url, "--json"])
    if code:
        sys.exit(f"eoctl {' '.join(words)} ended with {code}: {err.getvalue()}")
    if os.environ.get("EOCTL_SHOW_REQUESTS"):
        print(" ".join(words), *requests.log, sep="\n  ", file=sys.stderr)
    return requests.counts


def _write(state: Path, files: int) -> None:
    noise = random.Random(files)
    for number in range(files):
        path = state / f"{number % 100:02}" / f"{number:06}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise.randbytes(noise.randrange(1000, 20_001)))
        os.utime(path, ns=(OLD_NS + number, OLD_NS + number))


def _change(state: Path, files: int) -> None:
    noise = random.Random(-files)
    for number in range(0, files, CHANGED):
        path = state / f"{number % 100:02}" / f"{number:06}"
        path.unlink()
        path.write_bytes(noise.randbytes(5000))
        os.utime(path, ns=(OLD_NS - 1 - number, OLD_NS - 1 - number))


def table(rows: Sequence[Row], prices: Prices) -> Iterator[str]:
    """Markdown."""
    yield f"| files | command | {' | '.join(CLASSES)} | requests | dollars per 1,000 times |"
    yield f"|--:|---|{'--:|' * (len(CLASSES) + 2)}"
    for row in rows:
        counts = " | ".join(str(row.counts[name] or "") for name in CLASSES)
        total = sum(row.counts.values())
        yield f"| {row.files:,} | {row.what} | {counts} | {total} | {1000 * prices.of(row.counts):.2f} |"


def write(page: Path, text: str) -> None:
    """The table on the page is this one."""
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{page} has no {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


@contextmanager
def user(home: Path) -> Iterator[None]:
    """Settings and caches of nobody."""
    kept = dict(os.environ)
    for name in kept:
        if name.startswith(("EOCTL_STORE", "EOCTL_PROFILE", "XDG_")):
            del os.environ[name]
    os.environ["HOME"] = str(home)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def main() -> int:
    parser = argparse.ArgumentParser(prog="s3_requests", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, nargs="+", default=[10, 1000, 100_000], metavar="N")
    parser.add_argument("--put", type=float, default=0.005, help="dollars for 1,000 PUT, COPY, POST, LIST")
    parser.add_argument("--get", type=float, default=0.0004, help="dollars for 1,000 GET, HEAD and the like")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table there, between its marks")
    arguments = parser.parse_args()
    prices = Prices(put=arguments.put, get=arguments.get)
    with tempfile.TemporaryDirectory(prefix="eoctl-requests-") as folder, s3_server() as server, user(Path(folder)):
        rows: list[Row] = []
        for files in arguments.files:
            url = server.url(server.bucket(), "store")
            for row in measured(files, url, Path(folder, str(files))):
                rows.append(row)
                print(f"{row.files:>7,} {row.what:30} {dict(row.counts)}", file=sys.stderr, flush=True)
    text = "\n".join(table(rows, prices))
    print(text)
    if arguments.write:
        write(arguments.write, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
