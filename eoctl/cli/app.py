"""The tree of commands, each made when it is asked for, and the look of their help.

The table in `commands.py` says what there is, so that help and suggestions import no command; a command's
module is imported when the command runs, and only that one command is built from it. Shared options are
added to every command here and end in the `Invocation`. rich is not used for help: it costs 35 ms.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn, TypeAlias

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command_from_info

from eoctl.cli import exit_codes
from eoctl.cli.commands import COMMANDS, NOUNS, verbs_of
from eoctl.cli.invocation import Invocation, invocation_of
from eoctl.cli.output import tell, write
from eoctl.cli.settings import read_environment
from eoctl.version import VERSION
from formats.errors import UsageError

Context: TypeAlias = Any  # typer has them of click, and does not export them
Formatter: TypeAlias = Any

PROGRAM = "eoctl"
_HELP = """\
Store, inspect and restore snapshots of exactly-once stream pipelines.

Example:
    eoctl store init /srv/eoctl
    export EOCTL_STORE=/srv/eoctl
    eoctl checkpoint create /var/lib/app/state -p orders
    eoctl restore orders@latest --to /var/lib/app/restored
"""
_SNAPSHOTS = (
    ("PIPELINE@42", "the checkpoint with that id"),
    ("PIPELINE@latest", "the newest complete checkpoint"),
    ("PIPELINE@NAME", "the savepoint of that name"),
    ("42, latest, NAME", "the same, with -p PIPELINE, or where the store has one pipeline"),
)
_SHARED = "_shared"


def run(argv: list[str]) -> int:
    """Runs the command in `argv`; returns its exit code. Raises: what commands raise, UsageError."""
    environment = read_environment()
    root = Root()
    if environment.completing:
        from eoctl.cli.completion import answer_shell  # noqa: PLC0415  (only when a shell asks)

        return answer_shell(root)
    try:
        with root.make_context(PROGRAM, argv, obj=Invocation(environment)) as context:
            root.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except typer.TyperException as error:
        _refuse(error)
    return exit_codes.DONE


def _refuse(error: typer.TyperException) -> NoReturn:
    """What the parser did not understand, said as every other error is."""
    context: typer.Context | None = getattr(error, "ctx", None)
    message = error.format_message().strip().removesuffix(".").replace("a valid int range", "a whole number")
    hint = f"{context.command_path} --help" if context is not None else None
    raise UsageError(message[:1].lower() + message[1:], hint=hint) from None


class Verb(TyperCommand):
    """A command. Its help: one sentence, what else there is to know, an example, and the options."""

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        arguments = [_usage_of(param, ctx) for param in self.params if isinstance(param, TyperArgument)]
        return ["[OPTIONS]", *arguments]

    def format_help_text(self, ctx: Context, formatter: Formatter) -> None:  # noqa: ARG002  (typer's form)
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Context, formatter: Formatter) -> None:
        arguments = [param for param in self.params if isinstance(param, TyperArgument) and param.help]
        _write_list("Arguments", [(_usage_of(param, ctx), param.help or "") for param in arguments], formatter)
        _write_options(self, ctx, formatter)


class _Group(TyperGroup):
    """A level of the tree, known by the table alone."""

    words: Sequence[str]

    def invoke(self, ctx: Context) -> object:
        if not ctx._protected_args:  # noqa: SLF001  (the words that the parser left over)
            tell(ctx.get_help())
            raise typer.Exit(exit_codes.USAGE)
        return super().invoke(ctx)

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002  (typer's form)
        return list(self.words)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Any, list[str]]:
        command = self.get_command(ctx, args[0])
        if command is None and not ctx.resilient_parsing:
            path = f"{ctx.command_path} {args[0]}"
            raise UsageError(f"no such command: {path}", hint=_nearest(ctx.command_path, args[0]))
        return args[0] if command is not None else None, command, args[1:]

    def collect_usage_pieces(self, ctx: Context) -> list[str]:  # noqa: ARG002  (typer's form)
        return ["COMMAND", "[OPTIONS]", "..."]

    def format_help_text(self, ctx: Context, formatter: Formatter) -> None:  # noqa: ARG002  (typer's form)
        _write_text(self.help or "", formatter)


class Root(_Group):
    """`eoctl` itself."""

    def __init__(self) -> None:
        self.words = [*NOUNS, *verbs_of("")]
        version = TyperOption(
            param_decls=["--version", "-V"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_say_version,
            help="Show the version.",
        )
        params = [version, *_completion_options(), *_shared_options()]
        super().__init__(name=PROGRAM, help=_HELP, params=params, context_settings=_CONTEXT, rich_markup_mode=None)

    def get_command(self, ctx: Context, cmd_name: str) -> TyperCommand | TyperGroup | None:  # noqa: ARG002  (likewise)
        if cmd_name in NOUNS:
            return Noun(cmd_name)
        return load_command(cmd_name) if cmd_name in self.words else None

    def format_options(self, ctx: Context, formatter: Formatter) -> None:
        _write_list("Commands", [(name, summary) for name, (_, summary) in COMMANDS.items()], formatter)
        _write_list("Snapshots are named", list(_SNAPSHOTS), formatter)
        _write_options(self, ctx, formatter)
        codes = [(str(entry.code), entry.meaning) for entry in exit_codes.EXIT_CODES]
        _write_list("Exit codes", codes, formatter)


class Noun(_Group):
    """`eoctl NOUN`."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.words = list(verbs_of(noun))
        params = list(_shared_options(hidden=True))
        super().__init__(name=noun, help=NOUNS[noun], params=params, context_settings=_CONTEXT, rich_markup_mode=None)

    def get_command(self, ctx: Context, cmd_name: str) -> TyperCommand | None:  # noqa: ARG002  (typer's form)
        return load_command(f"{self.noun} {cmd_name}") if cmd_name in self.words else None

    def format_options(self, ctx: Context, formatter: Formatter) -> None:
        _write_list("Commands", list(verbs_of(self.noun).items()), formatter)
        _write_options(self, ctx, formatter)


def load_command(name: str) -> TyperCommand:
    """The command of that name in the table, with the shared options."""
    module, _ = COMMANDS[name]
    app: typer.Typer = import_module(module).app
    verb = name.rpartition(" ")[2]
    info = next(info for info in app.registered_commands if info.name == verb)
    info.cls, info.context_settings = Verb, _CONTEXT
    command = get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode=None)
    assert isinstance(command, Verb)
    command.params.extend(_shared_options())
    return command


_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


def _shared_options(*, hidden: bool = False) -> list[TyperOption]:
    """The options of every command, at each level of the tree."""

    def option(*names: str, help: str, metavar: str | None = None) -> TyperOption:  # noqa: A002  (as typer calls it)
        return TyperOption(
            param_decls=list(names),
            is_flag=metavar is None,
            default=False if metavar is None else None,
            metavar=metavar,
            expose_value=False,
            callback=_remember,
            help=help,
            hidden=hidden,
            rich_help_panel=_SHARED,
        )

    return [
        option("--store", metavar="URL", help="The store. Else EOCTL_STORE, else the profile, else a local store."),
        option("--profile", metavar="NAME", help="Take the store from this profile of the config file."),
        option("--json", help="Print one JSON document."),
        option("--jsonl", help="Print a JSON row to a line, and progress as JSON on stderr."),
        option("-q", "--quiet", help="Print the bare answer; no notices, no progress."),
        option("-v", "--verbose", help="Say which store is used, and what led to an error."),
        option("--no-color", help="No colour, as with NO_COLOR."),
    ]


def _remember(ctx: typer.Context, param: Any, value: str | bool | None) -> None:  # noqa: ANN401  (typer's form)
    if value is not None:
        invocation_of(ctx).give(param.name, value)


def _completion_options() -> list[Any]:
    from typer.main import get_install_completion_arguments  # noqa: PLC0415  (it is of use here only)

    return list(get_install_completion_arguments())


def _say_version(ctx: typer.Context, _param: object, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        write([f"{PROGRAM} {VERSION}\n"])
        raise typer.Exit


def _nearest(path: str, word: str) -> str:
    """The hint for a command that does not exist: the nearest that does, at this level before elsewhere."""
    from difflib import get_close_matches  # noqa: PLC0415  (only for mistakes)

    noun = path.partition(" ")[2]
    here = [f"{noun} {name}".strip() for name in (verbs_of(noun) if noun else [*NOUNS, *verbs_of("")])]
    everyday = [name for name in COMMANDS if name.startswith("checkpoint ")]
    by_last_word: dict[str, str] = {name.rpartition(" ")[2]: name for name in (*COMMANDS, *everyday, *here)}
    local = get_close_matches(word, [name.rpartition(" ")[2] for name in here], n=1)
    found = local or get_close_matches(word, list(by_last_word), n=1)
    return f"did you mean: {PROGRAM} {by_last_word[found[0]]}" if found else f"{path} --help"


def _usage_of(param: TyperArgument, ctx: Context) -> str:
    metavar = param.make_metavar(ctx)
    return metavar if param.required else f"[{metavar}]"


def _write_text(text: str, formatter: Formatter) -> None:
    """Paragraphs are wrapped; the lines of the example stay as they are."""
    prose, _, example = inspect.cleandoc(text).partition("\nExample:\n")
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(prose.strip())
    if example:
        with formatter.section("Example"):
            for line in example.rstrip().splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{line.strip()}\n")


def _write_options(command: TyperCommand | TyperGroup, ctx: Context, formatter: Formatter) -> None:
    own: list[tuple[str, str]] = []
    shared: list[tuple[str, str]] = []
    for param in command.get_params(ctx):
        if isinstance(param, TyperOption) and (record := param.get_help_record(ctx)) is not None:
            is_shared = param.rich_help_panel == _SHARED or "--help" in param.opts
            (shared if is_shared else own).append(record)
    _write_list("Options", own, formatter)
    _write_list("Shared options", shared, formatter)


def _write_list(title: str, rows: list[tuple[str, str]], formatter: Formatter) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows)
