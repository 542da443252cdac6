"""Mutation testing: apply each mutant of `mutant_list` and check that its tests fail.

A mutant is one replacement in one file. It is applied to a copy of the project, and the tests named
with it run there. The run fails if a mutant survives its tests, if it no longer applies, or if a
test that killed one fails without it as well.

Tests run in forks of one process that has imported the libraries: to import them takes longer than
most mutants live.

python -m tools.mutants [NAME ...]
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from compileall import compile_dir
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from py_compile import PycInvalidationMode
from queue import SimpleQueue

import pytest

from tools.mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]
WORKERS = 2
NOT_COPIED = shutil.ignore_patterns(".venv*", ".git", "*_cache", "__pycache__", "*.egg-info")
LIBRARIES = ["numba", "pytest", "transformers.models.mimo_v2_flash.modeling_mimo_v2_flash"]
FORKS = multiprocessing.get_context("forkserver")


def main(names: Sequence[str]) -> int:
    """Test the mutants called `names`, or all, and return the exit status."""
    selected = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        print(f"no mutant is called {', '.join(sorted(unknown))}")
        return 2
    FORKS.set_forkserver_preload(LIBRARIES)
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for copy in pool.map(_copy, [Path(folder) / str(worker) for worker in range(WORKERS)]):
            copies.put(copy)
        killers = list(pool.map(lambda mutant: _killer(mutant, copies), selected))
        tests = sorted(set(filter(None, killers)))
        parts = [tests[worker::WORKERS] for worker in range(WORKERS)]
        passed = all(pool.map(lambda part: _pass(part, copies), parts))
    killed = len(killers) - killers.count("")
    print(f"{killed} of {len(selected)} mutants killed")
    return int(not passed or killed < len(selected))


def _copy(folder: Path) -> Path:
    """Copy the project, with bytecode that is valid for as long as a file has the same content."""
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
    compile_dir(folder, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return folder


def _killer(mutant: Mutant, copies: "SimpleQueue[Path]") -> str:
    """Apply `mutant` to one of `copies`, run its tests, and return the one that fails, or ""."""
    copy = copies.get()
    path = copy / mutant.file
    source = path.read_text()
    killer, verdict = "", "DOES NOT APPLY"
    try:
        if source.count(mutant.old) == 1:
            path.write_text(source.replace(mutant.old, mutant.new))
            status, failed = _pytest(copy, mutant.tests)
            killer = failed if status == pytest.ExitCode.TESTS_FAILED else ""
            verdict = "killed" if killer else "SURVIVED"
    finally:
        path.write_text(source)
        copies.put(copy)
    print(f"{verdict:>14}  {mutant.name}", flush=True)
    return killer


def _pass(tests: Sequence[str], copies: "SimpleQueue[Path]") -> bool:
    """Return whether the tests pass without a mutant: else they would kill every mutant."""
    if not tests:
        return True
    copy = copies.get()
    status, failed = _pytest(copy, tests)
    copies.put(copy)
    if status:
        print(f"without any mutant pytest ends with status {status}: {failed}")
    return status == pytest.ExitCode.OK


class _FirstFailure:
    """Plugin of pytest that writes which test has failed."""

    def __init__(self, file: Path):
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.file.write_text(report.nodeid)


def _pytest(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run the tests until one fails, in a fork; return pytest's status, and which has failed."""
    failed = copy.with_suffix(".failed")
    failed.write_text("")
    process = FORKS.Process(target=_run, args=(copy, tests, failed))
    process.start()
    process.join()
    return process.exitcode, failed.read_text()


def _run(copy: Path, tests: Sequence[str], failed: Path) -> None:
    """Exit with the status of pytest, which imports the project of `copy` alone."""
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    for name in [name for name in sys.modules if name.split(".")[0] == "tools"]:
        del sys.modules[name]
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    imported = "ignore::pytest.PytestAssertRewriteWarning"  # a plugin, by a library: anyio
    options = ["-q", "-x", "-W", imported, "-p", "no:cacheprovider"]
    command = [*options, "--hypothesis-profile=mutants", *tests]
    sys.exit(pytest.main(command, plugins=[_FirstFailure(failed)]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
