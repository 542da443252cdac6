"""Mutation testing: apply each mutant of `mutant_list` and check that its tests fail.

A mutant is one replacement in one file. It is applied to a copy of the project, and the tests named
with it run there. The run fails if a mutant survives its tests or no longer applies.

python -m tools.mutants [NAME ...]
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tools.mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]
WORKERS = 2
NOT_COPIED = shutil.ignore_patterns(".venv*", ".git", "*_cache", "__pycache__", "*.egg-info")


def main(names: Sequence[str]) -> int:
    """Test the mutants called `names`, or all, and return the exit status."""
    selected = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        print(f"no mutant is called {', '.join(sorted(unknown))}")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for worker in range(WORKERS):
            copies.put(Path(shutil.copytree(ROOT, Path(folder) / str(worker), ignore=NOT_COPIED)))
        with ThreadPoolExecutor(WORKERS) as pool:
            if not _tests_pass(pool, Path(folder), selected):
                return 1
            verdicts = list(pool.map(lambda mutant: _test(mutant, copies), selected))
    survived = verdicts.count("SURVIVED") + verdicts.count("DOES NOT APPLY")
    print(f"{len(selected) - survived} of {len(selected)} mutants killed")
    return 1 if survived else 0


def _tests_pass(pool: ThreadPoolExecutor, folder: Path, mutants: Sequence[Mutant]) -> bool:
    """Return whether the tests pass without a mutant: else they would kill every mutant."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    parts = [tests[worker::WORKERS] for worker in range(min(WORKERS, len(tests)))]
    copies = [folder / str(worker) for worker in range(len(parts))]
    for part, status in zip(parts, pool.map(_pytest, copies, parts), strict=True):
        if status:
            print(f"the tests fail without any mutant: {' '.join(part)}")
            return False
    return True


def _test(mutant: Mutant, copies: "SimpleQueue[Path]") -> str:
    """Apply `mutant` to one of `copies`, run its tests, restore the copy, return the verdict."""
    copy = copies.get()
    path = copy / mutant.file
    source = path.read_text()
    try:
        if source.count(mutant.old) != 1:
            verdict = "DOES NOT APPLY"
        else:
            path.write_text(source.replace(mutant.old, mutant.new))
            verdict = "killed" if _pytest(copy, mutant.tests) == 1 else "SURVIVED"
    finally:
        path.write_text(source)
        copies.put(copy)
    print(f"{verdict:>14}  {mutant.name}", flush=True)
    return verdict


def _pytest(copy: Path, tests: Sequence[str]) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    completed = subprocess.run(
        [*command, "--hypothesis-profile=mutants", *tests],
        cwd=copy,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    return completed.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
