"""Work in a process of its own: for peaks of memory, for starts, and so that no benchmark changes another's heap.

    python benchmarks/fresh.py MODULE FUNCTION JSON FILE

calls a function of a module of this folder with keyword arguments and writes what it returns to a file, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Failed(Exception):  # noqa: N818
    """A process ended with an error, which it has said on stderr."""


@dataclass(frozen=True)
class Spent:
    """What a process took: seconds on the wall, and of processor time, its children's too."""

    wall: float
    cpu: float


def call(module: str, function: str, arguments: Mapping[str, Any], *, threads: int, **environment: str) -> Any:
    """What `module.function(**arguments)` returns in a new process. Raises Failed if it raises.

    Args:
        arguments: and the result, as JSON can hold.
        threads: of torch in that process.
        environment: beside that of this process, less what concerns memory allocation.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "returned.json"
        command = [sys.executable, __file__, module, function, json.dumps(dict(arguments)), str(path)]
        spend(command, threads=threads, environment=environment)
        return json.loads(path.read_text(encoding="utf-8"))


def call_in_turn(
    module: str, function: str, asked: Sequence[Mapping[str, Any]], *, times: int, threads: int
) -> list[list[Any]]:
    """Of each of `asked` what `call` gives, so many times, in turn: what an allocator keeps differs by a tenth."""
    rounds = [[call(module, function, arguments, threads=threads) for arguments in asked] for _ in range(times)]
    return [list(found) for found in zip(*rounds, strict=True)]


def spend(
    command: list[str],
    *,
    threads: int,
    cwd: Path | None = None,
    quiet: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Spent:
    """Run a command to its end; its results on stdout are thrown away. Raises Failed if it fails.

    Args:
        environment: beside that of this process, less what concerns memory allocation.
        quiet: what it says on stderr is shown only if it fails.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    merged = {**inherited, "OMP_NUM_THREADS": str(threads), **(environment or {})}
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=merged, cwd=cwd, stdout=subprocess.DEVNULL, stderr=said if quiet else None
        )
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace"))
            raise Failed(f"{' '.join(command[:4])} ... ended with status {process.returncode}")
    return Spent(wall, used.ru_utime + used.ru_stime)


def main() -> None:
    module, function, arguments, path = sys.argv[1:]
    returned = getattr(import_module(module), function)(**json.loads(arguments))
    Path(path).write_text(json.dumps(returned), encoding="utf-8")


if __name__ == "__main__":
    main()
