"""The runtime beside others on this machine: `python -m scripts.benchmarks.runtime --peer PYTHON --quixstreams PYTHON`.

Interpreters that have bytewax, and quixstreams; who is left out is not compared. Rounds are interleaved, one warms up;
told are medians of CPU seconds for a million records, which a busy machine does not change, and of wall seconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INTERVAL = 1.0
CORE = min(os.sched_getaffinity(0))


def measure(words: list[str]) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words,
        env=environment,
        capture_output=True,
        check=True,
        cwd=ROOT,
        preexec_fn=lambda: os.sched_setaffinity(0, {CORE}),
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--quixstreams", metavar="PYTHON")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    count = str(arguments.records)
    ours = [sys.executable, "-m", "scripts.benchmarks.runtime_ours"]
    peers = {"bytewax": arguments.peer, "quixstreams": arguments.quixstreams}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(arguments.rounds + 1):
        for what in ("count", "window"):
            runs = {
                "eoctl": [*ours, what, count],
                f"eoctl, a checkpoint every {INTERVAL:g} s": [*ours, what, count, str(INTERVAL)],
            }
            for name, python in peers.items():
                if python is not None:
                    script = f"scripts/benchmarks/runtime_{name}.py"
                    runs[name] = [python, script, what, str(arguments.records // 4)]
            for name, words in runs.items():
                answer = measure(words)
                if number:
                    found.setdefault((what, name), []).append(answer)
    print("| pipeline | | records/s of CPU | CPU s / million | wall s / million | checkpoints |")
    print("|---|---|---|---|---|---|")
    for (what, name), answers in found.items():
        millions = answers[0]["records"] / 1e6
        cpu = statistics.median(answer["cpu_seconds"] for answer in answers) / millions
        wall = statistics.median(answer["seconds"] for answer in answers) / millions
        checkpoints = statistics.median(answer.get("checkpoints", 0) for answer in answers)
        print(f"| {what} | {name} | {1e6 / cpu:,.0f} | {cpu:.2f} | {wall:.2f} | {checkpoints:g} |")


if __name__ == "__main__":
    main()
