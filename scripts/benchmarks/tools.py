"""The tools that are compared, each as the commands of one life cycle. Nothing is run here.

"Tuned" is a peer at its best on hard-linked checkpoints: by default restic and borg read every file again,
because a new hard link changes the ctime of the file.

Commands are templates; these words in braces are filled in:
  source          the path at which every checkpoint is shown to the tool
  repo, out       the tool's own repository; the empty folder to restore into, in which `restore` runs
  last            the last checkpoint, where it lies when it is not shown
  step, before    number of the checkpoint, and of the one before
  kept, dropped   how many checkpoints `collect` keeps, and how many it expires
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scripts.benchmarks.machine import find_program
from scripts.benchmarks.measure import Command

Commands = tuple[Command, ...]

PIPELINE = "bench"
RESTIC = ("restic", "--quiet", "--repo", "{repo}")
RCLONE = ("rclone", "--config", "/dev/null", "--quiet")
STORE = ("--store", "{repo}")
COLLECT_NOW = ("--grace", "0", "--keep-trash", "0", "--json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool. An operation without commands is one that it does not have."""

    name: str
    program: str
    syncs: str  # what it makes durable before it returns
    prepare: Commands
    first: Commands
    next: Commands
    increments: bool = True  # False: every snapshot is a full copy
    restore: Commands
    restored: str = "{out}"  # the folder that has to equal the source afterwards
    restore_link: Commands = ()
    verify: Commands = ()
    list: Commands = ()
    collect: Commands = ()
    start: Commands = ()


def fill(commands: Commands, values: Mapping[str, object]) -> Commands:
    """The commands with their words filled in."""
    return tuple(tuple(word.format_map(values) for word in command) for command in commands)


def split_missing(tools: Iterable[Tool]) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The tools whose program is installed, and the names of the others."""
    known = tuple(tools)
    present = tuple(tool for tool in known if find_program(tool.program) is not None)
    return present, tuple(tool.name for tool in known if tool not in present)


def eoctl(*, link: bool = False) -> Tool:
    """eoctl by its command line; with `link` it takes files into the store by hard link."""
    create = (
        "eoctl",
        "checkpoint",
        "create",
        "{source}",
        "-p",
        PIPELINE,
        *(("--link",) if link else ()),
        *STORE,
    )
    restore = ("eoctl", "restore", f"{PIPELINE}@latest", "--to", "{out}/state", *STORE)
    return Tool(
        name="eoctl --link" if link else "eoctl",
        program="eoctl",
        syncs="blobs, then the manifest, then HEAD",
        prepare=(("eoctl", "store", "init", *STORE),),
        first=(create,),
        next=(create,),
        restore=(restore,),
        restored="{out}/state",
        restore_link=((*restore, "--link"),),
        verify=(("eoctl", "checkpoint", "verify", "-p", PIPELINE, "--level", "full", *STORE),),
        list=(("eoctl", "checkpoint", "list", "-p", PIPELINE, *STORE),),
        collect=(("eoctl", "gc", "-p", PIPELINE, "--keep-last", "{kept}", *COLLECT_NOW, *STORE),),
        start=() if link else (("eoctl", "--version"),),
    )


def restic(name: str, *options: str) -> Tool:
    """restic with repository version 2."""
    backup = (*RESTIC, "backup", "--host", "host", *options, "{source}")
    keep = ("--keep-last", "{kept}", "--group-by", "")
    return Tool(
        name=name,
        program="restic",
        syncs="every pack",
        prepare=((*RESTIC, "init", "--repository-version", "2"),),
        first=(backup,),
        next=(backup,),
        restore=((*RESTIC, "restore", "latest", "--target", "{out}"),),
        restored="{out}{source}",
        verify=((*RESTIC, "check", "--read-data"),),
        list=((*RESTIC, "snapshots"),),
        collect=((*RESTIC, "forget", *keep, "--prune", "--max-unused", "0"),),
    )


def borg(name: str, *options: str) -> Tool:
    """borg without encryption."""
    create = ("borg", "create", *options, "{repo}::step-{step}", "{source}")
    return Tool(
        name=name,
        program="borg",
        syncs="every segment",
        prepare=(("borg", "init", "--encryption", "none", "{repo}"),),
        first=(create,),
        next=(create,),
        restore=(("borg", "extract", "{repo}::step-{step}"),),
        restored="{out}{source}",
        verify=(("borg", "check", "--verify-data", "{repo}"),),
        list=(("borg", "list", "{repo}"),),
        collect=(
            ("borg", "delete", "--first", "{dropped}", "{repo}"),
            ("borg", "compact", "--threshold", "0", "{repo}"),
        ),
    )


def rsync(name: str, syncs: str, *options: str) -> Tool:
    """rsync: a folder for every checkpoint, unchanged files linked to the one before."""
    copy = ("rsync", "-a", *options)
    return Tool(
        name=name,
        program="rsync",
        syncs=syncs,
        prepare=(("mkdir", "{repo}"),),
        first=((*copy, "{source}/", "{repo}/step-{step}/"),),
        next=((*copy, "--link-dest={repo}/step-{before}", "{source}/", "{repo}/step-{step}/"),),
        restore=((*copy, "{repo}/step-{step}/", "{out}/"),),
    )


def copy_all() -> Tool:
    """`cp -a`: every snapshot is a full copy."""
    copy = ("cp", "-a", "{source}", "{repo}/step-{step}")
    return Tool(
        name="cp -a",
        program="cp",
        syncs="nothing",
        prepare=(("mkdir", "{repo}"),),
        first=(copy,),
        next=(copy,),
        increments=False,
        restore=(("cp", "-a", "{repo}/step-{step}/.", "{out}"),),
    )


def rclone() -> Tool:
    """rclone: one mirror; what a step replaces is moved aside."""
    sync = (*RCLONE, "sync", "{source}", "{repo}/current", "--backup-dir", "{repo}/old-{step}")
    return Tool(
        name="rclone",
        program="rclone",
        syncs="nothing",
        prepare=(("mkdir", "{repo}"),),
        first=(sync,),
        next=(sync,),
        restore=((*RCLONE, "copy", "{repo}/current", "{out}"),),
        verify=((*RCLONE, "check", "{last}", "{repo}/current"),),
        list=((*RCLONE, "lsf", "{repo}"),),
    )


def peers() -> tuple[Tool, ...]:
    """Every peer, installed or not."""
    return (
        restic("restic"),
        restic("restic tuned", "--ignore-ctime", "--compression", "off"),
        borg("borg", "--compression", "lz4"),
        borg("borg tuned", "--files-cache=mtime,size,inode", "--compression", "none"),
        rsync("rsync", "nothing"),
        rsync("rsync --fsync", "every file", "--fsync"),
        copy_all(),
        rclone(),
    )
