"""The documentation is true: its examples run, its commands exist, its links lead somewhere, its tables are the code's.

The fenced blocks of README.md and docs/scripting.md are run in the order of the page, in one directory with one store:

- `python` is a program and `sh` a script; each ends with status 0.
- `console`: each line `$ COMMAND` is run, with status 0, and prints what follows it, but for times, digests and
  durations; a line `...` stands for any lines.
- `json` after a `console` block is the document that its last command prints, likewise.

Blocks that say `rocksdb` as well run apart from the others, where rocksdict is installed. Blocks of any other language
are for reading.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import zstandard
from msgspec import Struct
from msgspec.structs import fields

import eoctl
from eoctl.cli.app import load_command
from eoctl.cli.commands import COMMANDS, NOUNS, verbs_of
from eoctl.cli.exit_codes import EXIT_CODES
from formats.blocktable import decode_table
from formats.canonical import decode
from formats.errors import EoctlError
from formats.head import Head, HeadEntry, Hold, Trashed, Writer, decode_head
from formats.ids import HashAlgorithm
from formats.manifest import (
    MAX_MANIFEST_BYTES,
    Blocks,
    Engine,
    Inline,
    Manifest,
    Metrics,
    OperatorState,
    PackRef,
    SinkState,
    Slice,
    SourceOffsets,
    StateFile,
    StateInfo,
    SubtaskState,
    Table,
    Transaction,
    Whole,
    check_manifest,
)
from formats.report import Damage, Report, decode_report
from storage.pins import PinRecord
from storage.store import StoreRecord

ROOT = Path(__file__).parents[2]
RUN_PAGES = (
    "README.md",
    "docs/scripting.md",
    "docs/runtime.md",
    "docs/gc.md",
    "docs/forks.md",
    "docs/repair.md",
    "docs/s3.md",
    "docs/savepoints.md",
    "docs/simulation.md",
    "docs/watching.md",
    "docs/planning.md",
    "docs/billing.md",
    "docs/guarantees.md",
    "docs/flink.md",
)
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
HOME = "/srv"  # what the pages call the directory in which their examples run

# What differs from run to run, in text and in JSON.
VOLATILE_TEXT = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?Z?)?"), "<time>"),
    (re.compile(r"\b\d{8}T\d{6}\.\d{3}Z"), "<time>"),
    (re.compile(r"\(\d+ bytes\)"), "(<bytes>)"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<digest>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<id>"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:s|min|h)\b"), "<duration>"),
    (re.compile(r"\bprocess \d+\b"), "process <number>"),
    (re.compile(r"[ \t]+"), " "),
)
# Times apart, and sums in which a manifest is counted, whose random ids compress as they like.
VOLATILE_KEYS = {
    "age_seconds",
    "compared_seconds",
    "checked_bytes",
    "frees_bytes",
    "live_bytes",
    "referenced_bytes",
    "stored_bytes",
}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language and the words after it, its text."""

    page: str
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> Iterator[Block]:
    lines = path.read_text("utf-8").split("\n")
    start, info = 0, ""
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if start:
                words = info.split()
                yield Block(
                    page=path.relative_to(ROOT).as_posix(),
                    line=start,
                    language=words[0] if words else "",
                    words=tuple(words[1:]),
                    text="\n".join(lines[start : number - 1]) + "\n",
                )
                start = 0
            else:
                start, info = number, line[3:]
    assert start == 0, f"{path}:{start}: a fenced block without an end"


def blocks_in(page: str, language: str, *, path: Path | None = None) -> list[Block]:
    return [block for block in blocks_of(path or ROOT / page) if block.language == language]


# The examples run.


class Session:
    """Runs the examples of one page."""

    def __init__(self, home: Path) -> None:
        self.home = home / "home"
        self.home.mkdir()
        programs = home / "bin"
        programs.mkdir()
        shim = programs / "eoctl"
        shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m eoctl.cli.main "$@"\n')
        shim.chmod(0o755)
        (programs / "python3").symlink_to(sys.executable)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("EOCTL_", "PYTHON", "XDG_")) and name != "COLUMNS"
        }
        self.environment = kept | {
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "PYTHONPATH": str(ROOT),
            "EOCTL_STORE": str(self.home / "store"),
            "REPOSITORY": str(ROOT),
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
        }
        self.printed = ""

    def run(self, block: Block, *, document_follows: bool) -> None:
        match block.language:
            case "python":
                self.execute(block.where, [sys.executable, "-c", block.text])
            case "sh":
                self.execute(block.where, ["bash", "-euo", "pipefail", "-c", block.text])
            case "console":
                steps = list(steps_of(block))
                for number, (command, expected) in enumerate(steps, 1):
                    self.execute(f"{block.where}: $ {command}", ["bash", "-c", command])
                    if not (document_follows and number == len(steps)):
                        assert matches(expected, self.printed), (
                            f"{block.where}: $ {command}\n--- the page says\n{expected}--- it prints\n{self.printed}"
                        )
            case "json":
                shown, printed = json.loads(block.text), json.loads(self.printed.splitlines()[-1])
                assert steady(shown) == steady(printed), f"{block.where}: printed {json.dumps(printed, indent=2)}"

    def execute(self, where: str, command: list[str]) -> None:
        done = subprocess.run(
            command,
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.printed = done.stdout.replace(str(self.home), HOME)
        assert done.returncode == 0, f"{where}: status {done.returncode}\n{self.printed}"


def steps_of(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block, with what it prints; a command goes on after a backslash."""
    command, expected = "", ""
    for line in block.text.splitlines():
        if command.endswith("\\"):
            command = command[:-1] + line.removeprefix("> ").strip()
        elif line.startswith("$ "):
            if command:
                yield command, expected
            command, expected = line[2:], ""
        else:
            expected += f"{line}\n"
    assert command, block.where
    yield command, expected


def matches(expected: str, printed: str) -> bool:
    lines = [line.rstrip() for line in plain(expected).splitlines()]
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\s*\n" for line in lines)
    return re.fullmatch(pattern, plain(printed)) is not None


def plain(text: str) -> str:
    for pattern, word in VOLATILE_TEXT:
        text = pattern.sub(word, text)
    return text


def steady(value: Any, key: str = "") -> Any:
    """JSON with what differs from run to run left out."""
    match value:
        case dict() if key == "capabilities":
            return sorted(value)
        case dict():
            return {plain(name): steady(member, name) for name, member in value.items()}
        case list():
            return [steady(member, key) for member in value]
        case str():
            return plain(value)
        case float():
            return "<fraction>"
    return "<bytes>" if key in VOLATILE_KEYS else value


def run_page(page: str, home: Path, *, rocksdb: bool) -> None:
    session = Session(home)
    blocks = [block for block in blocks_of(ROOT / page) if ("rocksdb" in block.words) is rocksdb]
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        session.run(block, document_follows=after is not None and after.language == "json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """The pages, each run by itself, all at the same time: they wait for the disk more than they work."""
    with ThreadPoolExecutor() as pool:
        yield {page: pool.submit(run_page, page, tmp_path_factory.mktemp("page"), rocksdb=False) for page in RUN_PAGES}


@pytest.mark.thorough
@pytest.mark.parametrize("page", RUN_PAGES)
def test_the_examples_of_a_page_run(page: str, runs: dict[str, Future[None]]) -> None:
    runs[page].result()


@pytest.mark.rocksdb
def test_the_rocksdb_examples_run(tmp_path: Path) -> None:
    pytest.importorskip("rocksdict")
    run_page("docs/scripting.md", tmp_path, rocksdb=True)


# What is named exists, and what exists is named.

BEFORE_A_COMMAND = r"(?:^|[|;&(!]|\b(?:if|then|do|else|while|until|exec)\s)\s*(?:[A-Z_]+=\S*\s+)*"
EOCTL = re.compile(BEFORE_A_COMMAND + r"eoctl((?:[ \t]+[^\s|;&<>()#]+)+)", re.MULTILINE)
SHARED = {"--store", "--profile", "--json", "--jsonl", "-q", "--quiet", "-v", "--verbose", "--no-color", "-h", "--help"}


def spans_of(path: Path) -> Iterator[str]:
    """Inline code, of which lines wrapped in the source are joined."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", text):
        yield " ".join(span.split())


def shell_texts(path: Path) -> Iterator[str]:
    """Everything on a page that somebody might type."""
    yield from spans_of(path)
    for block in blocks_of(path):
        match block.language:
            case "console":
                yield from (command for command, _ in steps_of(block))
            case "sh" | "text":
                yield block.text.replace("\\\n", " ")


def commands_in(text: str) -> Iterator[list[str]]:
    for match in EOCTL.finditer(text):
        words = [word.strip("\"'") for word in match[1].split()]
        yield words


def options_of(command: str) -> set[str]:
    return {name for param in load_command(command).params for name in (*param.opts, *param.secondary_opts)} | SHARED


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    return {command: options_of(command) for command in COMMANDS}


def test_every_command_and_option_on_a_page_exists(options: dict[str, set[str]]) -> None:
    wrong = []
    for path in PAGES:
        for text in shell_texts(path):
            for words in commands_in(text):
                known, named = _known(words, options), " ".join(words)
                if known is None:
                    wrong.append(f"{path.relative_to(ROOT)}: no such command: eoctl {named}")
                    continue
                flags = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
                wrong += [f"{path.relative_to(ROOT)}: no {flag}: eoctl {named}" for flag in sorted(flags - known)]
    assert wrong == []


def _known(words: list[str], options: dict[str, set[str]]) -> set[str] | None:
    """The options that the command may have; None if there is no such command."""
    if words[0].startswith("-"):
        return SHARED | {"--version", "-V", "--install-completion", "--show-completion"}
    if words[0] in verbs_of(""):
        return options[words[0]]
    if words[0] in NOUNS and (len(words) == 1 or words[1] in verbs_of(words[0])):
        return options[" ".join(words[:2])] if len(words) > 1 else SHARED
    return SHARED if words[0] in {"...", "NOUN"} else None


def test_every_option_in_a_sentence_exists(options: dict[str, set[str]]) -> None:
    known = set().union(*options.values()) | {"--version"}
    wrong = []
    for path in PAGES:
        if path.name != "performance.md":  # of scripts/bench
            spans = [span.split()[0] for span in spans_of(path) if re.match(r"--[a-z]", span)]
            wrong += [f"{path.relative_to(ROOT)}: {span}" for span in spans if span.partition("=")[0] not in known]
    assert wrong == []


def test_every_command_is_documented() -> None:
    named = set()
    for page in RUN_PAGES:
        for text in shell_texts(ROOT / page):
            for words in commands_in(text):
                named.add(words[0] if words[0] in verbs_of("") else " ".join(words[:2]))
    assert sorted(set(COMMANDS) - named) == []


def test_every_public_name_and_method_is_documented() -> None:
    page = (ROOT / "docs/scripting.md").read_text("utf-8")
    library = import_module("eoctl.library")
    methods = {
        name
        for handle in (library.StoreHandle, library.PipelineHandle, library.Writer)
        for name in vars(handle)
        if not name.startswith("_")
    }
    assert sorted(name for name in methods if not re.search(rf"\.{name}\b", page)) == []
    assert sorted(name for name in eoctl.__all__ if not re.search(rf"\b{name}\b", page)) == []


# Tables of the pages are those of the code.


def table_below(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its titles."""
    text = (ROOT / page).read_text("utf-8").partition(f"\n{heading}\n")[2]
    lines = [line for line in text.partition("\n#")[0].split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_of_exit_codes_is_that_of_the_program() -> None:
    shown = [
        (int(code), kinds, means, do) for code, kinds, means, do in table_below("docs/scripting.md", "## Exit codes")
    ]
    assert shown == [
        (entry.code, ", ".join(f"`{kind}`" for kind in entry.kinds), entry.meaning, entry.then) for entry in EXIT_CODES
    ]


def test_every_error_ends_in_a_documented_exit_code() -> None:
    for module in ("storage.backend", "storage.blobs", "storage.edits"):
        import_module(module)
    codes = {kind: entry.code for entry in EXIT_CODES for kind in entry.kinds}
    known = {error for error in errors_below(EoctlError) if error.__module__.startswith(("formats.", "storage."))}
    assert {error.kind: error.exit_code for error in known} == {error.kind: codes[error.kind] for error in known}


def errors_below(error: type[EoctlError]) -> Iterator[type[EoctlError]]:
    yield error
    for child in error.__subclasses__():
        yield from errors_below(child)


# The formats.

MANIFEST_RECORDS = (
    *(Manifest, Engine, OperatorState, StateInfo, SubtaskState, StateFile, PackRef),
    *(Inline, Whole, Slice, Blocks, Table, SourceOffsets, SinkState, Transaction, Metrics),
)


def canonical(block: Block) -> bytes:
    return json.dumps(json.loads(block.text), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def dumped(page: str) -> bytes:
    (block,) = blocks_in(page, "hexdump")
    return bytes.fromhex("".join(line[10:57] for line in block.text.splitlines()))


@pytest.mark.parametrize(
    ("page", "records"),
    [
        ("store", (StoreRecord,)),
        ("head", (Head, HeadEntry, Trashed, Hold, Writer)),
        ("pin", (PinRecord,)),
        ("report", (Report, Damage)),
        ("manifest", MANIFEST_RECORDS),
    ],
)
def test_every_field_of_a_stored_record_is_on_its_page(page: str, records: tuple[type[Struct], ...]) -> None:
    named = set(spans_of(ROOT / f"docs/formats/{page}.md"))
    assert {field.encode_name for record in records for field in fields(record)} - named == set()


def test_the_example_of_store_json_can_be_read() -> None:
    (block,) = blocks_in("docs/formats/store.md", "json")
    assert decode(canonical(block), StoreRecord, what="store.json", max_bytes=1 << 16).features == ()


def test_the_example_of_a_head_can_be_read() -> None:
    (block,) = blocks_in("docs/formats/head.md", "json")
    assert [entry.id for entry in decode_head(canonical(block)).live] == [1]


def test_the_example_of_a_pin_can_be_read() -> None:
    (block,) = blocks_in("docs/formats/pin.md", "json")
    assert decode(canonical(block), PinRecord, what="pin", max_bytes=1 << 16).attempt == 1


def test_the_example_of_a_report_can_be_read() -> None:
    (block,) = blocks_in("docs/formats/report.md", "json")
    assert not decode_report(canonical(block), "report").good


def test_the_example_of_a_manifest_can_be_read() -> None:
    (block,) = blocks_in("docs/formats/manifest.md", "json")
    data = canonical(block)
    manifest = decode(data, Manifest, what="manifest", max_bytes=MAX_MANIFEST_BYTES)
    check_manifest(manifest)
    file = manifest.operators[0].subtasks[0].files[0]
    assert HashAlgorithm.BLAKE3.digest(file.place.data) == file.digest  # type: ignore[union-attr]  # it lies inline
    assert zstandard.frame_content_size(dumped("docs/formats/manifest.md")) == len(data)


def test_the_example_of_a_pack_is_one() -> None:
    pack = dumped("docs/formats/pack.md")
    assert HashAlgorithm.BLAKE3.digest(pack) in (ROOT / "docs/formats/pack.md").read_text("utf-8")
    assert (pack[:8], pack[8:24], pack[44:]) == (b"EOPK\x01\0\0\0", b"MANIFEST-000004\n", b"last")
    assert zstandard.ZstdDecompressor().decompress(pack[24:44]) == bytes(64 << 10)


def test_the_example_of_a_block_table_can_be_read() -> None:
    zeros, last = decode_table(dumped("docs/formats/blocktable.md"))
    pack = dumped("docs/formats/pack.md")
    assert (zeros.pack.digest, zeros.pack.era) == (HashAlgorithm.BLAKE3.digest(pack), 3)
    assert (zeros.offset, zeros.length, zeros.compressed) == (24, 20, True)
    assert zeros.digest.hex() == HashAlgorithm.BLAKE3.digest(bytes(64 << 10))
    assert pack[last.offset : last.offset + last.length] == b"last"
    assert last.digest.hex() == HashAlgorithm.BLAKE3.digest(b"last")


# The pages hang together.

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def links_of(path: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def anchors_of(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_relative_link_leads_somewhere() -> None:
    broken = []
    for path in PAGES:
        for link in links_of(path):
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            if not target.exists() or (anchor and anchor not in anchors_of(target)):
                broken.append(f"{path.relative_to(ROOT)}: {link}")
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        path = todo.pop()
        if path not in reached and path.suffix == ".md":
            reached.add(path)
            todo += [(path.parent / link.partition("#")[0]).resolve() for link in links_of(path)]
    assert sorted(path.relative_to(ROOT).as_posix() for path in set(PAGES) - reached) == []


def test_decisions_are_numbered_and_told_alike() -> None:
    decisions = sorted((ROOT / "docs/adr").glob("0*.md"))
    assert [path.name[:4] for path in decisions] == [f"{number:04}" for number in range(1, len(decisions) + 1)]
    for path in decisions:
        text = path.read_text("utf-8")
        assert text.startswith(f"# {path.name[:4]}: "), path.name
        headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
        assert (headings[0], headings[-1]) == ("Context", "Price paid"), path.name
        assert any("ecision" in heading for heading in headings), path.name
