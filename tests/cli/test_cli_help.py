"""Every command says what it does in a sentence, and shows how by an example that would run."""

from __future__ import annotations

import inspect
import re
import shlex

import pytest
import typer
from typer.core import TyperGroup

from eoctl.cli.app import PROGRAM, Root, load_command
from eoctl.cli.commands import COMMANDS, NOUNS, verbs_of
from eoctl.cli.main import main
from tests.cli.conftest import CommandLine

LEVELS = [(), *[(noun,) for noun in NOUNS], *[tuple(name.split()) for name in COMMANDS]]


def examples_in(text: str) -> list[str]:
    """The commands below `Example:`."""
    block = text.partition("Example:\n")[2].partition("\n\n")[0]
    return [line.strip() for line in block.splitlines() if line.strip()]


def parse(words: list[str]) -> None:
    """Fails where the words are no command with its arguments and options."""
    context = Root().make_context(PROGRAM, words)
    while isinstance(context.command, TyperGroup):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_one_sentence_and_an_example(name: str) -> None:
    text = inspect.cleandoc(load_command(name).help or "")
    first = text.splitlines()[0]
    assert first.endswith(".")
    examples = examples_in(text)
    assert any(example.startswith(f"{PROGRAM} {name}") for example in examples)
    for example in examples:
        parse(shlex.split(example.partition(" | ")[0])[1:])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_commands_says_what_the_command_says(name: str) -> None:
    text = inspect.cleandoc(load_command(name).help or "")
    assert text.splitlines()[0] == COMMANDS[name][1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    assert [param.opts for param in load_command(name).params if not getattr(param, "help", "")] == []


def test_the_table_of_commands_is_that_of_the_modules() -> None:
    found = set()
    for name, (module, _) in COMMANDS.items():
        app = __import__(module, fromlist=["app"]).app
        found |= {(module, info.name) for info in app.registered_commands}
        assert (module, name.rpartition(" ")[2]) in found
    assert found == {(module, name.rpartition(" ")[2]) for name, (module, _) in COMMANDS.items()}
    assert {name.partition(" ")[0] for name in COMMANDS if " " in name} == set(NOUNS)


@pytest.mark.parametrize("words", LEVELS, ids=" ".join)
def test_help_fits_a_terminal(eoctl: CommandLine, words: tuple[str, ...]) -> None:
    done = eoctl.ok(*words, "--help")
    # An example may be longer than a line: it is there to be copied.
    lines = [line for line in done.lines if not line.startswith(f"  {PROGRAM} ")]
    assert [line for line in lines if len(line) > 80] == []
    assert done.out == eoctl.ok(*words, "-h").out
    assert done.lines[0].startswith(f"Usage: {' '.join([PROGRAM, *words])} ")


def test_the_help_of_the_program_names_every_command_and_exit_code(eoctl: CommandLine) -> None:
    text = eoctl.ok("--help").out
    for name, (_, summary) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", text, re.MULTILINE)
    for code in (0, 1, 2, 3, *range(10, 19), 130):
        assert re.search(rf"^  {code} +\w", text, re.MULTILINE)


def test_help_documents_completion_and_how_snapshots_are_named(eoctl: CommandLine) -> None:
    text = eoctl.ok("--help").out
    assert "--install-completion" in text
    assert "--show-completion" in text
    assert "PIPELINE@latest" in text


def test_the_help_of_the_examples_itself_would_run() -> None:
    for example in examples_in(inspect.cleandoc(Root().help or "")):
        if example.startswith(PROGRAM):
            parse(shlex.split(example)[1:])


@pytest.mark.parametrize("words", [(), *[(noun,) for noun in NOUNS]], ids=" ".join)
def test_no_command_at_all_is_answered_by_help_on_stderr(eoctl: CommandLine, words: tuple[str, ...]) -> None:
    done = eoctl(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err == eoctl.ok(*words, "--help").out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("checkpiont list", "did you mean: eoctl checkpoint"),
        ("checkpoint lst", "did you mean: eoctl checkpoint list"),
        ("list", "did you mean: eoctl checkpoint list"),
        ("verify", "did you mean: eoctl checkpoint verify"),
        ("restor", "did you mean: eoctl restore"),
        ("pipeline restore", "did you mean: eoctl restore"),
        ("xyzzy", "eoctl --help"),
    ],
)
def test_an_unknown_command_is_told_with_the_nearest(eoctl: CommandLine, words: str, hint: str) -> None:
    done = eoctl(*words.split())
    assert (done.code, done.out) == (2, "")
    first, *rest = words.split()
    named = " ".join([first, *rest[:1]]) if first in NOUNS else first
    assert done.err.splitlines() == [f"error: no such command: eoctl {named}", f"hint: {hint}"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("checkpoint list --nope", "no such option: --nope"),
        ("checkpoint list --limit x", "invalid value for '--limit': 'x' is not a whole number"),
        ("checkpoint inspect", "missing argument 'SNAP'"),
        ("checkpoint create dir", "missing option '-p' / '--pipeline'"),
        ("checkpoint verify --level deep", "invalid value for '--level': 'deep' is not one of"),
        ("restore 1 2 --to x", "got unexpected extra argument(s) (2)"),
    ],
)
def test_words_that_do_not_parse_are_one_line_and_a_hint(eoctl: CommandLine, words: str, message: str) -> None:
    done = eoctl(*words.split())
    assert (done.code, done.out) == (2, "")
    first, second = done.err.splitlines()
    assert first.startswith(f"error: {message}")
    command = words.split()[: 1 if words.startswith("restore") else 2]
    assert second == f"hint: eoctl {' '.join(command)} --help"


def test_the_version_is_said_by_the_fast_way_and_the_slow_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    fast = capsys.readouterr().out
    assert main(["-q", "--version"]) == 0
    assert capsys.readouterr().out == fast
    assert main(["-V"]) == 0
    assert capsys.readouterr().out == fast


def test_verbs_are_listed_in_the_order_of_the_table() -> None:
    assert list(verbs_of("store")) == ["init", "info", "stats", "repair"]
    assert list(verbs_of(""))[:2] == ["restore", "gc"]


def test_typer_is_what_is_used() -> None:
    assert isinstance(__import__("eoctl.cli.checkpoint", fromlist=["app"]).app, typer.Typer)
