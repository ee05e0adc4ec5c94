"""From a URL to a place: a path, `file:///...`; `s3://` stores open through `storage/backends/s3.py`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from formats.errors import UsageError
from storage.backend import Place
from storage.backends.local import LocalBackend
from storage.backends.probe import check_file_system


def open_place(url: str, token: str) -> Place:
    """The place at `url`; nothing is read or written. `token` makes this process's temporary names its own.

    Raises: UsageError.
    """
    parts = urlsplit(url)
    if "://" not in url:
        path = url
    elif parts.scheme == "file" and parts.netloc in {"", "localhost"} and not parts.query:
        path = unquote(parts.path)
    else:
        raise UsageError(f"not a store URL: {url!r}", hint="a path, or file:///PATH")
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
