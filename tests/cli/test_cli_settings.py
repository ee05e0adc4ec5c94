"""Which store a command means: `--store`, then EOCTL_STORE, then a profile, then the embedded default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eoctl.cli.settings import ChosenStore, Environment, choose_store
from formats.errors import UsageError
from tests.cli.conftest import CommandLine


def environment(tmp_path: Path, **given: str) -> Environment:
    return Environment(
        store=given.get("store", ""),
        profile=given.get("profile", ""),
        config_home=tmp_path / "config",
        data_home=tmp_path / "data",
        cache_home=tmp_path / "cache",
        no_color=False,
        columns=None,
        completing=False,
    )


def write_config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config" / "eoctl" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


TWO_PROFILES = '[profiles.prod]\nstore = "/prod"\n[profiles.test]\nstore = "/test"\n'


def test_the_option_beats_the_variable_and_the_profile(tmp_path: Path) -> None:
    write_config(tmp_path, 'default_profile = "prod"\n' + TWO_PROFILES)
    assert choose_store(environment(tmp_path, store="/variable"), "/option", None).url == "/option"
    assert choose_store(environment(tmp_path, store="/variable"), None, None).url == "/variable"
    assert choose_store(environment(tmp_path), None, None).url == "/prod"


def test_the_profile_is_the_option_then_the_variable_then_the_default(tmp_path: Path) -> None:
    write_config(tmp_path, 'default_profile = "prod"\n' + TWO_PROFILES)
    assert choose_store(environment(tmp_path, profile="test"), None, None).url == "/test"
    assert choose_store(environment(tmp_path, profile="prod"), None, "test").url == "/test"


def test_a_profile_that_would_be_overruled_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path, TWO_PROFILES)
    with pytest.raises(UsageError, match="--profile prod would be overruled by EOCTL_STORE"):
        choose_store(environment(tmp_path, store="/variable"), None, "prod")
    with pytest.raises(UsageError, match="--profile prod would be overruled by --store"):
        choose_store(environment(tmp_path), "/option", "prod")


def test_without_any_setting_the_store_is_embedded(tmp_path: Path) -> None:
    expected = ChosenStore(url=str(tmp_path / "data/eoctl/store"), origin="the embedded default", embedded=True)
    assert choose_store(environment(tmp_path), None, None) == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("colour = 1\n", "colour is not known"),
        ("default_profile = 1\n", "default_profile must be text"),
        ('default_profile = "gone"\n', "default_profile names no profile: 'gone'"),
        ('profiles = "prod"\n', "profiles must be a table"),
        ("[profiles]\nprod = 1\n", "profiles.prod must be a table"),
        ("[profiles.prod]\n", "profiles.prod.store must be the URL of a store"),
        ("[profiles.prod]\nstore = 7\n", "profiles.prod.store must be the URL of a store"),
        ('[profiles.prod]\nstore = "/x"\nregion = "eu"\n', "profiles.prod.region is not known"),
        ("default_profile =\n", "is not TOML"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1").decode("utf-8", "surrogateescape"), "is not TOML"),
    ],
)
def test_a_bad_config_file_is_refused_with_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    path = write_config(tmp_path, "")
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as caught:
        choose_store(environment(tmp_path), None, None)
    assert key in caught.value.message
    assert str(path) in caught.value.message


def test_an_unknown_profile_is_told_with_those_that_exist(tmp_path: Path) -> None:
    path = write_config(tmp_path, TWO_PROFILES)
    with pytest.raises(UsageError) as caught:
        choose_store(environment(tmp_path), None, "stage")
    assert caught.value.message == "no such profile: 'stage' (--profile)"
    assert caught.value.hint == f"profiles in {path}: prod, test"


@pytest.mark.parametrize(
    "url", ["s3://key:secret@bucket/prefix", "s3://bucket/p?endpoint_url=http://key:secret@host:9000"]
)
def test_a_url_with_credentials_is_refused_and_not_printed(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_store(environment(tmp_path), url, None)
    assert "secret" not in caught.value.message + (caught.value.hint or "")


def test_a_path_with_an_at_sign_is_no_credential(tmp_path: Path) -> None:
    assert choose_store(environment(tmp_path), "/srv/a@b", None).url == "/srv/a@b"


def test_the_embedded_store_is_made_on_first_use_with_a_notice(
    eoctl: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EOCTL_STORE")
    path = eoctl.home / ".local/share/eoctl/store"
    first = eoctl("checkpoint", "list")
    assert (first.code, first.out) == (0, "")
    assert f"notice: made a store at {path}" in first.err
    assert (path / "store.json").is_file()
    second = eoctl("checkpoint", "list", "-q")
    assert (second.code, second.out, second.err) == (0, "", "")


def test_xdg_data_home_moves_the_embedded_store(eoctl: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EOCTL_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(eoctl.home / "data"))
    assert eoctl("checkpoint", "list", "-q").code == 0
    assert (eoctl.home / "data/eoctl/store/store.json").is_file()


def test_a_relative_xdg_directory_does_not_count(eoctl: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EOCTL_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", "data")
    assert eoctl("checkpoint", "list", "-q").code == 0
    assert not (eoctl.home / "data").exists()


def test_a_notice_is_json_too_where_stderr_has_to_be(eoctl: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EOCTL_STORE")
    done = eoctl("checkpoint", "list", "--json")
    assert [json.loads(line)["schema"] for line in done.err.splitlines()] == ["eoctl.notice/1"]


def test_a_store_that_was_named_is_never_made_by_itself(eoctl: CommandLine) -> None:
    done = eoctl("checkpoint", "list")
    assert done.code == 10
    assert not eoctl.store.exists()


def test_verbose_says_which_store_and_why(eoctl: CommandLine) -> None:
    eoctl.ok("store", "init")
    assert eoctl("checkpoint", "list", "-v").err.startswith(f"store: {eoctl.store} (EOCTL_STORE)\n")


def test_a_store_that_is_named_twice_is_refused(eoctl: CommandLine) -> None:
    assert eoctl("store", "init", "here", "--store", "there").code == 2
    assert list(eoctl.home.iterdir()) == []


def test_shared_options_stand_before_or_after_the_command(eoctl: CommandLine) -> None:
    eoctl.ok("store", "init", "other")
    for words in (
        ("--store", "other", "checkpoint", "list", "-q"),
        ("checkpoint", "--store", "other", "list", "-q"),
        ("-q", "checkpoint", "list", "--store", "other"),
    ):
        eoctl.ok(*words)
