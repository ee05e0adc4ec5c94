"""`OSError`, said as one of our errors: what, where, and what to do next."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from formats.errors import AccessDeniedError, EoctlError, NoSpaceError, UnavailableError, UnsupportedError

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ELOOP, errno.EMLINK, errno.ENAMETOOLONG})


@contextlib.contextmanager
def told(where: object) -> Iterator[None]:
    """An `OSError` inside is raised as an error of ours, about the file it names or else about `where`."""
    try:
        yield
    except OSError as error:
        raise translated(error, where) from error


def translated(error: OSError, where: object) -> EoctlError:
    """Raises nothing: returns the error to raise."""
    name = error.filename or where
    if error.errno in NO_SPACE:
        return NoSpaceError(f"no space left for {name}", hint="free some space, then run the command again")
    if isinstance(error, PermissionError):
        return AccessDeniedError(f"no permission for {name}", hint="check its owner and mode, and its directory's")
    if error.errno == errno.EROFS:
        return AccessDeniedError(f"the file system is read-only: {name}")
    if error.errno in _CANNOT:
        return UnsupportedError(f"the file system cannot do this: {error.strerror}: {name}")
    return UnavailableError(f"{error.strerror or error}: {name}")
