"""What the user has set: the only reader of the environment and of the config file.

The store is, in this order: `--store`, `EOCTL_STORE`, the profile (`--profile`, else `EOCTL_PROFILE`, else
`default_profile`) of the config file, and else a local store in the XDG data directory. A setting that another
one would silently overrule is refused where both were typed on purpose: `--profile` beside `--store` or
`EOCTL_STORE`.

The config file is `$XDG_CONFIG_HOME/eoctl/config.toml`:

    default_profile = "prod"

    [profiles.prod]
    store = "/srv/eoctl"

Credentials are no part of a store's URL, and a URL that holds some is refused without being printed.

Values here are named tuples: a dataclass costs 1 ms at every start, and this module is part of each.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from formats.errors import AccessDeniedError, UsageError

_credentials = re.compile(r"//[^/?#\s]*@")
_MAX_CONFIG_BYTES = 16 << 10  # a dotted key costs the TOML parser the square of its length


class Environment(NamedTuple):
    """What the process was started with. Empty strings: not set."""

    store: str
    profile: str
    config_home: Path
    data_home: Path
    cache_home: Path
    no_color: bool
    columns: int | None
    completing: bool


class ChosenStore(NamedTuple):
    """The store's URL and which setting named it. `embedded`: none did, so it is made on first use."""

    url: str
    origin: str
    embedded: bool = False


def read_environment() -> Environment:
    """The environment as of now. Raises: UsageError where no home directory is known."""
    columns = os.environ.get("COLUMNS", "")
    return Environment(
        store=os.environ.get("EOCTL_STORE", ""),
        profile=os.environ.get("EOCTL_PROFILE", ""),
        config_home=_xdg("XDG_CONFIG_HOME", ".config"),
        data_home=_xdg("XDG_DATA_HOME", ".local/share"),
        cache_home=_xdg("XDG_CACHE_HOME", ".cache"),
        no_color=bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb",
        columns=int(columns) if columns.isdecimal() and int(columns) > 0 else None,
        completing=bool(os.environ.get("_EOCTL_COMPLETE")),
    )


def choose_store(environment: Environment, store: str | None, profile: str | None) -> ChosenStore:
    """The store that `--store` and `--profile`, the environment and the config file name together.

    Raises: UsageError naming the setting, or the file and the key, that is wrong.
    """
    rival = "--store" if store is not None else "EOCTL_STORE" if environment.store else ""
    if profile is not None and rival:
        raise UsageError(f"--profile {profile} would be overruled by {rival}", hint=f"leave one of them out: {rival}")
    if store is not None:
        return _checked(ChosenStore(url=store, origin="--store"))
    if environment.store:
        return _checked(ChosenStore(url=environment.store, origin="EOCTL_STORE"))
    wanted = profile or environment.profile
    path = environment.config_home / "eoctl" / "config.toml"
    config = _read_config(path)
    if not wanted and not config.default_profile:
        url = str(environment.data_home / "eoctl" / "store")
        return ChosenStore(url=url, origin="the embedded default", embedded=True)
    name = wanted or config.default_profile
    if name not in config.stores:
        origin = "--profile" if profile else "EOCTL_PROFILE" if environment.profile else f"default_profile of {path}"
        known = ", ".join(sorted(config.stores)) or "none"
        raise UsageError(f"no such profile: {name!r} ({origin})", hint=f"profiles in {path}: {known}")
    return _checked(ChosenStore(url=config.stores[name], origin=f"profile {name} of {path}"))


class _Config(NamedTuple):
    default_profile: str
    stores: dict[str, str]


def _read_config(path: Path) -> _Config:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return _Config("", {})
    except PermissionError as error:
        raise AccessDeniedError(f"no permission to read the config file {path}") from error
    except OSError as error:
        raise UsageError(f"the config file cannot be read: {error.strerror}: {path}") from error
    if len(data) > _MAX_CONFIG_BYTES:
        raise UsageError(f"the config file is larger than {_MAX_CONFIG_BYTES} bytes: {path}")
    import tomllib  # noqa: PLC0415  (start-up)

    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number or a nesting beyond all bounds
        raise UsageError(f"the config file is not TOML: {path}: {error}") from error
    return _parse_config(path, document)


def _parse_config(path: Path, document: dict[str, object]) -> _Config:
    _only(path, "", document, {"default_profile", "profiles"})
    default = document.get("default_profile", "")
    if not isinstance(default, str):
        raise _bad(path, "default_profile", "must be text")
    profiles = document.get("profiles", {})
    if not isinstance(profiles, dict):
        raise _bad(path, "profiles", "must be a table, [profiles.NAME]")
    stores = {}
    for name, profile in profiles.items():
        if not isinstance(profile, dict):
            raise _bad(path, f"profiles.{name}", "must be a table")
        _only(path, f"profiles.{name}.", profile, {"store"})
        store = profile.get("store")
        if not isinstance(store, str) or not store:
            raise _bad(path, f"profiles.{name}.store", "must be the URL of a store")
        stores[name] = store
    if default and default not in stores:
        raise _bad(path, "default_profile", f"names no profile: {default!r}")
    return _Config(default, stores)


def _only(path: Path, prefix: str, table: dict[str, object], known: set[str]) -> None:
    for key in table:
        if key not in known:
            raise _bad(path, f"{prefix}{key}", f"is not known (known: {', '.join(sorted(known))})")


def _bad(path: Path, key: str, reason: str) -> UsageError:
    return UsageError(f"bad config file: {key} {reason}: {path}")


def _checked(chosen: ChosenStore) -> ChosenStore:
    if _credentials.search(chosen.url):
        raise UsageError(
            f"the store's URL holds credentials ({chosen.origin})",
            hint="take them out; the usual AWS variables, files and roles are used",
        )
    return chosen


def _xdg(variable: str, fallback: str) -> Path:
    """A base directory by the XDG rules: a relative one does not count."""
    value = os.environ.get(variable, "")
    if os.path.isabs(value):  # noqa: PTH117  (a string that may be empty)
        return Path(value)
    try:
        return Path.home() / fallback
    except RuntimeError as error:
        raise UsageError(f"no home directory is known: {error}", hint=f"set HOME or {variable}") from error
