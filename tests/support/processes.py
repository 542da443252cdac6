"""Processes: ranks, launched by torchrun on one or several nodes or one by one, and programs."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
OUTER_LIMIT = 240  # seconds; a test that takes as long has failed
PROGRAM = ("-m", "tests.support.rank_programs")


class Ended(NamedTuple):
    """The output of processes that have ended, and their exit statuses."""

    output: str
    codes: list[int]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(arguments: Sequence[str], **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(processes: Sequence[subprocess.Popen]) -> Ended:
    """Wait for all processes; terminate those that do not end, and their children."""
    try:
        output = [process.communicate(timeout=OUTER_LIMIT)[0] for process in processes]
    finally:
        for process in processes:
            process.terminate()  # torchrun then stops its ranks
        for process in processes:
            reap(process)
    return Ended("".join(output), [process.returncode for process in processes])


def python_output(program: str, *before: str, cwd: Path = ROOT, **environment: str) -> str:
    """Return what a program of Python prints; options of the interpreter come `before` it."""
    process = subprocess.run(
        [sys.executable, *before, "-c", program],
        env=os.environ | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def reap(process: subprocess.Popen) -> None:
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()


def program(name: str, odd: int, start_timeout: float, heartbeat_timeout: int) -> tuple[str, ...]:
    return (*PROGRAM, name, str(odd), str(start_timeout), str(heartbeat_timeout))


def by_torchrun(
    name: str,
    size: int,
    *,
    odd: int = -1,
    nodes: int = 1,
    absent_nodes: int = 0,
    start_timeout: float = 60,
    heartbeat_timeout: int = 15,
) -> Ended:
    """Run a rank program under torchrun, with one torchrun process per node."""
    each = ["-m", "torch.distributed.run", f"--nproc-per-node={size // nodes}"]
    each += [f"--nnodes={nodes}", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    each += [f"--rdzv-conf=timeout={start_timeout:.0f}"]
    arguments = program(name, odd, start_timeout, heartbeat_timeout)
    present = range(nodes - absent_nodes)
    return ended([start([*each, f"--node-rank={node}", *arguments]) for node in present])


def by_hand(
    name: str,
    size: int,
    *,
    odd: int = -1,
    absent: int = -1,
    start_timeout: float = 60,
    heartbeat_timeout: int = 6,
) -> dict[int, Ended]:
    """Start every rank but `absent`, without a launcher that stops the others when one fails."""
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = {
        rank: start(
            program(name, odd, start_timeout, heartbeat_timeout),
            **variables,
            RANK=str(rank),
            WORLD_SIZE=str(size),
        )
        for rank in range(size)
        if rank != absent
    }
    if name == "freezes":  # the odd rank never ends by itself
        others = {rank: process for rank, process in processes.items() if rank != odd}
        results = {rank: ended([process]) for rank, process in others.items()}
        processes[odd].kill()
        return results | {odd: ended([processes[odd]])}
    return {rank: ended([process]) for rank, process in processes.items()}
