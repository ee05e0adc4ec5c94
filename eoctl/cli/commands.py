"""Every command, the module that holds it, and its one line of help: so that `eoctl --help` imports none of them."""

from __future__ import annotations

NOUNS = {
    "store": "Make, repair a store, and see what it holds and costs.",
    "pipeline": "See, check and fork the pipelines of a store.",
    "checkpoint": "Take, list, explain, verify, keep and delete checkpoints.",
    "flink": "Inspect, clean and rewrite what Flink's jobs left.",
    "savepoint": "Make, read, move and delete portable savepoints.",
    "state": "Look into the state of a snapshot, row by row.",
    "txn": "See the transactions of sinks, and whether their log is whole.",
    "plan": "Work out what checkpoints cost, and how often to take one.",
}

_CREATE = "eoctl.cli.checkpoint_create"
_READ = "eoctl.cli.checkpoint"
_EDIT = "eoctl.cli.checkpoint_entries"
_SAVEPOINT = "eoctl.cli.savepoint"
_STATE = "eoctl.cli.state"
_TXN = "eoctl.cli.txn"
_FLINK = "eoctl.cli.flink"
_FLINK_WRITE = "eoctl.cli.flink_write"

COMMANDS = {
    "store init": ("eoctl.cli.store", "Make a new, empty store."),
    "store info": ("eoctl.cli.store", "Show what a store is and what its place can do."),
    "store stats": ("eoctl.cli.store", "Show what each pipeline stores, and what sharing saves."),
    "store repair": ("eoctl.cli.repair", "Repair damage from intact copies of the same bytes."),
    "pipeline list": ("eoctl.cli.pipeline", "List the pipelines of the store."),
    "pipeline show": ("eoctl.cli.pipeline", "Show a pipeline's counters, writers, holds, snapshots."),
    "pipeline check": ("eoctl.cli.check", "Check age, size, growth and duration of checkpoints."),
    "pipeline fork": ("eoctl.cli.pipeline", "Copy a snapshot, or all, into a new pipeline."),
    "pipeline destroy": ("eoctl.cli.pipeline", "Delete a pipeline with all its snapshots, for good."),
    "checkpoint create": (_CREATE, "Take a checkpoint of state on this host."),
    "checkpoint list": (_READ, "List snapshots, newest last."),
    "checkpoint inspect": (_READ, "Show what a snapshot consists of."),
    "checkpoint files": (_READ, "List a snapshot's files, and who stored each first."),
    "checkpoint diff": (_READ, "Compare the files of two snapshots."),
    "checkpoint explain": (_READ, "Say who needs a snapshot or a file, and why it is kept."),
    "checkpoint verify": (_READ, "Check that what snapshots need is there and undamaged."),
    "checkpoint tag": (_EDIT, "Add tags to a snapshot, or remove them."),
    "checkpoint hold": (_EDIT, "Keep a snapshot until it is released."),
    "checkpoint release": (_EDIT, "Drop the holds of a snapshot."),
    "checkpoint delete": (_EDIT, "Move snapshots to the trash; undelete brings them back."),
    "checkpoint undelete": (_EDIT, "Bring a snapshot back from the trash."),
    "savepoint create": (_SAVEPOINT, "Make a portable savepoint of a snapshot."),
    "savepoint list": (_SAVEPOINT, "List the savepoints of the store."),
    "savepoint inspect": (_SAVEPOINT, "Show what a savepoint consists of."),
    "savepoint verify": (_SAVEPOINT, "Check that a savepoint is whole."),
    "savepoint export": (_SAVEPOINT, "Write a savepoint of the store as a folder."),
    "savepoint import": (_SAVEPOINT, "Take a savepoint's folder into the store."),
    "savepoint delete": (_SAVEPOINT, "Move savepoints of the store to the trash."),
    "state list": (_STATE, "List the states of a snapshot."),
    "state get": (_STATE, "Show what a state holds for a key."),
    "state scan": (_STATE, "Show the rows of a state, in the order of their bytes."),
    "state count": (_STATE, "Count the rows, keys and bytes of states."),
    "state export": (_STATE, "Write the rows of a state into one file."),
    "state diff": (_STATE, "Compare the states of two snapshots, row by row."),
    "restore": ("eoctl.cli.restore", "Restore a snapshot into a new directory."),
    "gc": ("eoctl.cli.gc", "Expire old checkpoints, delete what no snapshot needs."),
    "flink orphans": (_FLINK, "Find files that no checkpoint or savepoint names."),
    "flink can-delete": (_FLINK, "Say whether something can be deleted."),
    "flink uid-hash": (_FLINK, "Print the operator id that Flink makes of a uid."),
    "flink preflight": (_FLINK, "Say whether a job will restore from a snapshot."),
    "flink remap": (_FLINK_WRITE, "Give the state of operators to others."),
    "flink relocate": (_FLINK_WRITE, "Copy checkpoints, with all paths rewritten."),
    "flink export": (_FLINK_WRITE, "Gather a snapshot into one folder."),
    "plan cost": ("eoctl.cli.plan", "Say what checkpoints cost, and a recovery."),
    "plan interval": ("eoctl.cli.plan", "Suggest how often to take a checkpoint."),
    "report": ("eoctl.cli.report", "Show growth, sharing and durations over time."),
    "doctor": ("eoctl.cli.doctor", "Look for what could harm the store where it is."),
    "txn list": (_TXN, "List the sink transactions of a snapshot."),
    "txn audit": (_TXN, "Check that a log of commits is whole."),
    "run": ("eoctl.cli.run", "Run a pipeline, from its newest checkpoint on."),
    "selftest": ("eoctl.cli.selftest", "Simulate years of faults on the real code."),
}


def verbs_of(noun: str) -> dict[str, str]:
    """The verbs of a noun, or the commands that stand alone (noun ""), with their help; in the order of the table."""
    prefix = f"{noun} " if noun else ""
    return {
        name.removeprefix(prefix): summary
        for name, (_, summary) in COMMANDS.items()
        if name.startswith(prefix) and " " not in name.removeprefix(prefix)
    }
