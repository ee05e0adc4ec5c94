"""`eoctl`: from the words of a command line to an exit code.

Rules kept here: every failure ends in one place, with a code of `exit_codes.py`; a foreseen one in one line
(and a hint), an unforeseen one in a traceback and a request to report it. What is said about an interrupt is
true (interrupts.py). `--version` imports nothing that it does not need.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from eoctl.cli import exit_codes
from eoctl.version import VERSION


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Without `argv`: as the program of this process, which it ends."""
    if argv is not None:
        return _run(list(argv))
    _prepare_process()
    code = _run(sys.argv[1:])
    _leave(code)
    return code


def _run(argv: list[str]) -> int:
    try:
        if argv in (["--version"], ["-V"]):
            print(f"eoctl {VERSION}", flush=True)  # noqa: T201  (the fast path)
            return exit_codes.DONE
        from eoctl.cli.app import run  # noqa: PLC0415  (typer costs more than the rest of --version)

        return run(argv)
    except BrokenPipeError:
        return exit_codes.READER_GONE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (the one place where every failure ends)
        from eoctl.cli.failures import report  # noqa: PLC0415  (only failures need it)

        return report(error, argv)


def _prepare_process() -> None:
    """This process runs one command and ends: so it is set up for that."""
    import gc  # noqa: PLC0415  (only here)

    # A command makes up to a million values, in trees without cycles. To walk them again and again in search of
    # cycles costs time and finds nothing; what is not freed by its reference count is freed by the process's end.
    gc.disable()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            # A name that the terminal's encoding does not have is shown escaped, rather than ending the command.
            stream.reconfigure(errors="backslashreplace")


def _leave(code: int) -> None:
    """The process is gone, unless a thread has something to finish; what was registered for the exit has run.

    To take the interpreter down object by object costs a tenth of a listing, and frees what the kernel frees anyway.
    After an interrupt no thread is waited for: one may read a file of many GB. Nothing is lost by that, for a crash
    at this point would leave the same behind (docs/protocol.md).
    """
    import atexit  # noqa: PLC0415  (only here)
    import os  # noqa: PLC0415  (only here)

    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1 and code != exit_codes.INTERRUPTED:
        return
    atexit._run_exitfuncs()  # noqa: SLF001  (what the interpreter itself would call)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            continue  # that stdout cannot be written was told where it was tried
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
