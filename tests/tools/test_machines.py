"""The tool that tests on other machines: what it counts, refuses, and does not call run."""

import os
import sys
from pathlib import Path

import pytest

from tools import machines
from tools.machines import MACHINES, SHORT, Machine


@pytest.fixture
def small_tests(monkeypatch, tmp_path):
    """Return a function that writes a test file, and reads the table of a machine that runs it."""

    def rows(test: str, *selected: Machine) -> list[dict[str, str]]:
        file = tmp_path / "test_small.py"
        file.write_text(test)
        return [
            machines.run(machine._replace(tests=(str(file), "-p", "no:cacheprovider")))
            for machine in selected
        ]

    return rows


def test_a_machine_is_what_its_variables_make(small_tests):
    machine = Machine("one", {"threads": "1"}, {"MIMO_NUM_THREADS": "1"})
    (row,) = small_tests(
        "import os\n"
        "def test_variable():\n    assert os.environ['MIMO_NUM_THREADS'] == '1'\n"
        "def test_failure():\n    assert False\n",
        machine,
    )
    assert (row["threads"], row["passed"], row["failed"]) == ("1", "1", "1")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_one_core_is_for_the_machine_alone(small_tests):
    before = os.sched_getaffinity(0)
    test = "import os\ndef test_cores():\n    assert len(os.sched_getaffinity(0)) == 1\n"
    (row,) = small_tests(test, Machine("one core", {"threads": "1"}, one_core=True))
    assert (row["passed"], row["failed"]) == ("1", "0")
    assert os.sched_getaffinity(0) == before


def test_without_numba_numba_is_missed_in_every_process(small_tests):
    machine = next(machine for machine in MACHINES if machine.name == "no numba")
    test = (
        "import subprocess, sys\n"
        "def test_child():\n"
        "    child = subprocess.run([sys.executable, '-c', 'import numba'])\n"
        "    assert child.returncode == 1\n"
    )
    (row,) = small_tests(test, machine)
    assert (row["numba"], row["passed"], row["failed"]) == ("no numba", "1", "0")


def test_a_machine_that_this_one_cannot_be_is_not_run(small_tests):
    rows = small_tests("", Machine("VAX", {"BLAS": "VAX"}), Machine("old", {"Python": "3.0"}))
    assert [(row["passed"], row["failed"]) for row in rows] == [("not run", "")] * 2
    assert rows[1]["Python"] == "not installed"


@pytest.mark.parametrize(
    ("numbers", "status", "expected"),
    [
        ((12, 0, 0, 0), 0, ("12", "0")),
        ((18, 2, 1, 3), 1, ("12", "3")),
        ((0, 0, 0, 0), 5, ("0", "1")),  # no test was collected
        (None, -4, ("0", "1")),  # an illegal instruction
    ],
)
def test_what_passed_and_failed_is_counted(tmp_path, numbers, status, expected):
    report = tmp_path / "report.xml"
    if numbers:
        names = ("tests", "failures", "errors", "skipped")
        words = " ".join(f'{name}="{n}"' for name, n in zip(names, numbers, strict=True))
        report.write_text(f"<testsuites><testsuite {words}/></testsuites>")
    counted = machines.counts(report, status)
    assert (counted["passed"], counted["failed"]) == expected


def test_a_failure_is_the_exit_status(monkeypatch, capsys):
    verdicts = {"native": "0", "one core": "", "one thread": "3"}
    monkeypatch.setattr(
        machines,
        "run",
        lambda machine: {"machine": machine.name, "failed": verdicts[machine.name]},
    )
    assert machines.main(["native", "one core"]) == 0
    assert machines.main(["one thread"]) == 1
    assert "one thread" in capsys.readouterr().out


def test_an_unknown_name_is_refused(capsys):
    assert machines.main(["nosuch"]) == 2
    assert "no machine is called nosuch" in capsys.readouterr().out


@pytest.mark.parametrize("listed", [MACHINES, SHORT])
def test_the_tests_of_a_machine_exist(listed):
    for machine in listed:
        for test in machine.tests:
            assert not test.startswith("tests/") or (machines.ROOT / test).exists()
    assert len({machine.name for machine in listed}) == len(listed)


def test_this_python_needs_no_environment():
    version = f"3.{sys.version_info.minor}"
    assert machines.python_of(None) == machines.python_of(version) == Path(sys.executable)


def test_a_python_that_is_found_is_of_its_version(monkeypatch, tmp_path):
    """A name on the PATH may be pyenv's, which fails until a version is chosen."""
    for folder, status in (("bin", "exit 127"), ("versions/3.77.1/bin", "echo Python 3.77.1")):
        (tmp_path / folder).mkdir(parents=True)
        name = "python3.77" if folder == "bin" else "python"
        (tmp_path / folder / name).write_text(f"#!/bin/sh\n{status}\n")
        (tmp_path / folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert machines.find_python("3.77") == tmp_path / "versions/3.77.1/bin/python"
    assert machines.find_python("3.78") is None
