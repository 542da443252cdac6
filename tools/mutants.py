"""Apply deliberate faults one by one, and demand that a test of the module catches each.

A fault is one replacement in one file. It is tried on a copy of the project, against the tests
named with it; a fault that they let pass, or that no longer applies, fails the run.

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
NOT_COPIED = shutil.ignore_patterns(".venv", ".git", "*_cache", "__pycache__", "*.egg-info")


def main(names: Sequence[str]) -> int:
    """Try the mutants called `names`, or all, and return the exit status."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        print(f"no mutant is called {', '.join(sorted(unknown))}")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for worker in range(WORKERS):
            copies.put(Path(shutil.copytree(ROOT, Path(folder) / str(worker), ignore=NOT_COPIED)))
        if not _healthy(folder, chosen):
            return 1
        with ThreadPoolExecutor(WORKERS) as pool:
            verdicts = list(pool.map(lambda mutant: _try(mutant, copies), chosen))
    survived = verdicts.count("SURVIVED") + verdicts.count("DOES NOT APPLY")
    print(f"{len(chosen) - survived} of {len(chosen)} mutants killed")
    return 1 if survived else 0


def _healthy(folder: str, chosen: Sequence[Mutant]) -> bool:
    """Return whether the tests pass before anything is broken: else they would catch all."""
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    if _pytest(Path(folder) / "0", tests) == 0:
        return True
    print(f"the tests fail without any mutant: {' '.join(tests)}")
    return False


def _try(mutant: Mutant, copies: "SimpleQueue[Path]") -> str:
    copy = copies.get()
    path = copy / mutant.file
    whole = path.read_text()
    try:
        if whole.count(mutant.old) != 1:
            verdict = "DOES NOT APPLY"
        else:
            path.write_text(whole.replace(mutant.old, mutant.new))
            verdict = "killed" if _pytest(copy, mutant.tests) == 1 else "SURVIVED"
    finally:
        path.write_text(whole)
        copies.put(copy)
    print(f"{verdict:>14}  {mutant.name}", flush=True)
    return verdict


def _pytest(copy: Path, tests: Sequence[str]) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--hypothesis-profile=mutants", *tests],
        cwd=copy,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
