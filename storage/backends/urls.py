"""From a URL to a place: a path, `file:///...`, `s3://BUCKET/PREFIX?...`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from formats.errors import UsageError
from storage.backend import Place
from storage.backends.local import LocalBackend
from storage.backends.probe import check_file_system


def open_place(url: str, token: str, records: Path | None = None) -> Place:
    """The place at `url`; nothing is read or written. `token` makes this process's temporary names its own.

    `records`: a directory that remembers which endpoints keep conditions; None: each process asks them.
    Raises: UsageError.
    """
    if url.startswith("s3://"):
        from storage.backends.s3 import s3_place  # noqa: PLC0415  (start-up: boto3)

        return s3_place(url, token, records)
    parts = urlsplit(url)
    if "://" not in url:
        path = url
    elif parts.scheme == "file" and parts.netloc in {"", "localhost"} and not parts.query:
        path = unquote(parts.path)
    else:
        raise UsageError(f"not a store URL: {url!r}", hint="a path, file:///PATH, or s3://BUCKET/PREFIX")
    if not path:
        raise UsageError("the store URL is empty", hint="--store PATH, or set EOCTL_STORE")
    root = Path(path).expanduser().absolute()
    backend = LocalBackend(root, token)
    return Place(
        url=str(root),
        backend=backend,
        scratch=backend.scratch,
        make_folders=backend.make_folders,
        check=partial(check_file_system, backend, root),
    )
