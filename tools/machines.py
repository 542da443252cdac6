"""Tests of the numbers as on other machines: BLAS kernels, processors, threads, Pythons, no numba.

Each machine is this one under other variables, or another Python with a virtual environment in
`.venvs`. Before its tests a probe shows that it is the machine that it is called.

python -m tools.machines [--short] [NAME ...]
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from xml.etree import ElementTree

from mimo_v2_flash.cli.console import console, table

ROOT = Path(__file__).parents[1]
VENVS = ROOT / ".venvs"
FOLDERS = ("tests/cpu", "tests/kernels", "tests/layers", "tests/quantization")
MODEL = tuple(
    f"tests/test_{name}.py"
    for name in (
        *("disagreement", "equalities", "equality_of_ranks", "features", "kv_cache", "model"),
        *("model_runner", "shipped_model", "trace_transformers", "compute_type"),
    )
)
PROCESSES = ("--numprocesses=2", "--dist=worksteal")
NO_WARNING = ("-W", "ignore:numba cannot be used:RuntimeWarning")
PROBE = """
import json, platform, warnings
import numpy, threadpoolctl
from mimo_v2_flash.cpu.loading import compiled_module
from mimo_v2_flash.cpu.thread_count import thread_count

blas = [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "blas"]
warnings.simplefilter("ignore")
processor = "no numba"
if compiled_module("matmul"):
    from mimo_v2_flash.cpu.tile import LANES
    from numba.core.registry import cpu_target
    processor = f"{cpu_target.target_context.codegen()._get_host_cpu_name()}, {LANES} lanes"
print(json.dumps({
    "Python": ".".join(platform.python_version_tuple()[:2]),
    "BLAS": blas[0].get("architecture", blas[0]["internal_api"]) if blas else "unknown",
    "numba": processor,
    "threads": str(thread_count().number),
}))
"""


class Machine(NamedTuple):
    """A kind of machine that this one can be.

    Attributes
    ----------
    name
        Its name in the table and on the command line.
    expected
        What its probe must show, by column.
    variables
        Environment variables that make it.
    one_core
        Whether its processes may use one core alone.
    tests
        Arguments of pytest.
    """

    name: str
    expected: Mapping[str, str]
    variables: Mapping[str, str] = {}
    one_core: bool = False
    tests: tuple[str, ...] = (*FOLDERS, *MODEL)


HASWELL = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+f16c"}
GENERIC = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
WITHOUT_NUMBA = {"PYTHONPATH": str(ROOT / "tests/support/without_numba")}
PYTHONS = tuple(f"3.{minor}" for minor in range(10, 15))
MACHINES = (
    Machine("native", {}),
    *(
        Machine(f"BLAS {name}", {"BLAS": name}, {"OPENBLAS_CORETYPE": name})
        for name in ("Nehalem", "Haswell", "SkylakeX")
    ),
    Machine("numba haswell", {"numba": "haswell, 8 lanes"}, HASWELL),
    Machine("numba generic", {"numba": "generic, 8 lanes"}, GENERIC),
    Machine("one thread", {"threads": "1"}, {"MIMO_NUM_THREADS": "1"}),
    Machine("one core", {"threads": "1"}, one_core=True),
    Machine(
        "no numba",
        {"numba": "no numba"},
        WITHOUT_NUMBA,
        tests=(*NO_WARNING, *FOLDERS[1:], *MODEL),
    ),
    *(Machine(f"Python {version}", {"Python": version}) for version in PYTHONS),
)
SHORT = (
    Machine(
        "an older one",
        {"BLAS": "Haswell", "numba": "haswell, 8 lanes", "threads": "1"},
        HASWELL | {"OPENBLAS_CORETYPE": "Haswell", "MIMO_NUM_THREADS": "1"},
    ),
    Machine(
        "no numba",
        {"numba": "no numba"},
        WITHOUT_NUMBA,
        tests=(*NO_WARNING, "tests/quantization", "tests/test_features.py"),
    ),
)
COLUMNS = ("Python", "BLAS", "numba", "threads")
COUNTS = ("passed", "failed", "seconds")


def main(arguments: Sequence[str]) -> int:
    """Test on the machines of these names, or on all, and return the exit status."""
    machines = SHORT if "--short" in arguments else MACHINES
    names = [argument for argument in arguments if argument != "--short"]
    if unknown := set(names) - {machine.name for machine in machines}:
        print(f"no machine is called {', '.join(sorted(unknown))}: there are")
        print("\n".join(machine.name for machine in machines))
        return 2
    rows = [run(machine) for machine in machines if not names or machine.name in names]
    shown = table("Machines", ("machine", *COLUMNS), COUNTS)
    for row in rows:
        shown.add_row(*(row.get(column, "") for column in ("machine", *COLUMNS, *COUNTS)))
    console().print(shown)
    return int(any(row["failed"] not in ("0", "") for row in rows))


def run(machine: Machine) -> dict[str, str]:
    """Return the row of a machine in the table: its probe, and the tests that passed and failed."""
    start, row = time.perf_counter(), {"machine": machine.name, "passed": "not run", "failed": ""}
    python = python_of(machine.expected.get("Python"))
    if python is None:
        return row | {"Python": "not installed"}
    with affinity(one_core=machine.one_core), TemporaryDirectory() as folder:
        probed = process((python, "-c", PROBE), machine, stdout=subprocess.PIPE)
        if probed.returncode:
            return row | {"failed": "probe"}
        row |= json.loads(probed.stdout)
        if any(row[column] != value for column, value in machine.expected.items()):
            return row  # this processor, BLAS or system cannot be that machine
        print(f"{machine.name}: {' '.join(machine.tests)}", flush=True)
        report = Path(folder) / "report.xml"
        options = ("-q", f"--junit-xml={report}", *PROCESSES)
        command = (python, "-m", "pytest", *options, *machine.tests)
        row |= counts(report, process(command, machine).returncode)
    return row | {"seconds": f"{time.perf_counter() - start:.0f}"}


def process(command: tuple[str | Path, ...], machine: Machine, **options: Any) -> Any:
    """Run a command on a machine, and return the finished process."""
    environment = os.environ | machine.variables
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, check=False, **options)


def counts(report: Path, status: int) -> dict[str, str]:
    """Return how many tests passed and failed, from pytest's report and its exit status."""
    numbers = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    if report.is_file():  # pytest may have been killed, by an illegal instruction for example
        suite = ElementTree.parse(report).find("testsuite")
        numbers = {name: int(suite.get(name)) for name in numbers}
    failed = numbers["failures"] + numbers["errors"]
    passed = numbers["tests"] - failed - numbers["skipped"]
    return {"passed": str(passed), "failed": str(failed or int(status != 0))}


@contextmanager
def affinity(*, one_core: bool) -> Iterator[None]:
    """Let processes that start within use one core alone, where the system can."""
    cores = os.sched_getaffinity(0) if one_core and hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)


def python_of(version: str | None) -> Path | None:
    """Return the Python of a machine: this one, or an environment's of another that is installed.

    The environment has what the project's own tests need; it is made when it is first used.
    """
    if version in (None, f"3.{sys.version_info.minor}"):
        return Path(sys.executable)
    folder = VENVS / version
    python, marker, project = folder / "bin/python", folder / "installed", ROOT / "pyproject.toml"
    if marker.exists() and marker.stat().st_mtime > project.stat().st_mtime:
        return python
    if (installed := find_python(version)) is None:
        return None
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([installed, "-m", "venv", folder], check=True)
    subprocess.run([python, *install, "--editable", f"{ROOT}[test]"], check=True)
    marker.touch()
    return python


def find_python(version: str) -> Path | None:
    """Return the path of an installed Python: on the PATH, or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    paths = [shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python")]
    for path in filter(None, paths):
        shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        if shown.stdout.startswith(f"Python {version}."):  # pyenv's own on the PATH may be unset
            return Path(path)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
