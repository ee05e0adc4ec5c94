"""What it costs a client to move bytes to S3 and back: boto3 as it comes, boto3 as we set it up, obstore.

    PYTHONPATH=. python scripts/benchmarks/s3_clients.py

obstore is no dependency; without it its rows are left out (docs/adr/0009-boto3-for-the-bytes-too.md).
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

from storage.backend import Key, LocalFile
from tests.support.seaweed import ACCESS_KEY, REGION, SECRET_KEY, Server, running_server

COUNT = 8
BYTES = 64 << 20
ROUNDS = 3

Steps = Iterator[tuple[str, Callable[[int], object]]]


def main() -> None:
    for server in running_server():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "body")
            path.write_bytes(os.urandom(BYTES))
            results: dict[str, list[tuple[float, float]]] = {}
            for turn in range(ROUNDS + 1):
                bucket = server.bucket()
                for name, step in steps(server, bucket, path):
                    figures = measured(step)
                    if turn:  # the first round warms up
                        results.setdefault(name, []).append(figures)
        for name, figures in results.items():
            cpu, wall = (median(column) for column in zip(*figures, strict=True))
            print(f"{name:28} cpu {cpu:5.2f} s/GB   wall {wall:5.2f} s/GB")


def steps(server: Server, bucket: str, path: Path) -> Steps:
    client = server.client()
    yield "boto3 put_object", lambda n: client.put_object(Bucket=bucket, Key=f"a/{n}", Body=path.open("rb"))
    backend = server.backend(bucket)
    backend.probe.ensure()

    def ours(number: int) -> None:
        copy = path.with_name(str(number))
        os.link(path, copy)
        assert backend.create(Key(f"b/{number}"), LocalFile(copy))

    yield "ours, create", ours
    store = None
    with suppress(ImportError):
        import obstore  # noqa: PLC0415  (may be absent)
        from obstore.store import S3Store  # noqa: PLC0415

        keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
        http = {"client_options": {"allow_http": True}}
        store = S3Store(bucket, endpoint=server.endpoint, region=REGION, **keys, **http)
        yield (
            "obstore put, create",
            lambda n: obstore.put(store, f"c/{n}", path.read_bytes(), mode="create", use_multipart=False),
        )
    yield "boto3 get_object", lambda n: drained(client.get_object(Bucket=bucket, Key=f"a/{n}")["Body"])
    yield "ours, open", lambda n: drained(backend.open(Key(f"b/{n}")))
    if store is not None:
        yield (
            "obstore get",
            lambda n: [memoryview(part) for part in obstore.get(store, f"c/{n}").stream(min_chunk_size=1 << 20)],
        )


def drained(reader) -> None:  # noqa: ANN001  (whatever reads)
    while reader.read(1 << 20):
        pass
    reader.close()


def measured(step: Callable[[int], object]) -> tuple[float, float]:
    """Seconds of processor and of wall clock for a gigabyte."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for number in range(COUNT):
        step(number)
    after, ended = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu / (COUNT * BYTES / 1e9), (ended - begun) / (COUNT * BYTES / 1e9)


if __name__ == "__main__":
    main()
