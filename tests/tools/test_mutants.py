"""The tool that applies deliberate faults: which it calls killed, and what it does not believe."""

from functools import cache

import pytest

from tools import mutants
from tools.mutant_list import MUTANTS, Mutant

FILES = {
    "conftest.py": 'from hypothesis import settings\nsettings.register_profile("mutants")\n',
    "double.py": "def double(x):\n    return 2 * x\n",
    "test_double.py": (
        "from double import double\n"
        "def test_one():\n    assert double(1) == 2\n"
        "def test_zero():\n    assert double(0) == 0\n"
    ),
    "test_broken.py": "def test_never():\n    assert False\n",
    "test_crash.py": "import os, double\ndef test_it():\n    double.double(1) == 2 or os.abort()\n",
}
TIMES = "2 * x"


@pytest.fixture
def verdict(tmp_path, monkeypatch, capsys):
    """Return a function that tests one mutant of a small project: exit status and lines."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for name in ("PYTHONDONTWRITEBYTECODE", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the tool sets them: undone after the test
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "LIBRARIES", [])

    def run(old: str, new: str, *tests: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(mutants, "MUTANTS", [Mutant("it", "double.py", old, new, tests)])
        status = mutants.main([])
        return status, capsys.readouterr().out.splitlines()

    return run


def test_a_mutant_that_fails_a_test_is_killed(verdict):
    killed = verdict(TIMES, "x * x", "test_double.py")
    assert killed == (0, ["        killed  it", "1 of 1 mutants killed"])


@pytest.mark.parametrize(
    ("new", "tests", "why"),
    [
        ("x + x", "test_double.py", "the same"),
        ("x * x", "test_double.py::test_zero", "a test that does not see it"),
        ("x * x", "test_crash.py", "a process that ends by a signal fails no test"),
        ("x (", "test_double.py", "nothing that runs"),
    ],
)
def test_other_mutants_survive(verdict, new, tests, why):
    assert verdict(TIMES, new, tests) == (1, ["      SURVIVED  it", "0 of 1 mutants killed"]), why


@pytest.mark.parametrize("old", ["3 * x", "x"])
def test_what_is_replaced_is_there_once(verdict, old):
    assert verdict(old, "y", "test_double.py")[1][0] == "DOES NOT APPLY  it"


def test_a_test_that_fails_without_a_mutant_kills_none(verdict):
    status, lines = verdict(TIMES, "x * x", "test_broken.py")
    assert status == 1
    assert lines[1] == "without any mutant pytest ends with status 1: test_broken.py::test_never"


def test_an_unknown_name_is_refused(verdict, capsys):
    assert mutants.main(["nosuch"]) == 2
    assert capsys.readouterr().out == "no mutant is called nosuch\n"


def test_what_every_mutant_replaces_is_there_once():
    text = cache(lambda file: (mutants.ROOT / file).read_text())
    assert [mutant.name for mutant in MUTANTS if text(mutant.file).count(mutant.old) != 1] == []


def test_the_tests_of_every_mutant_are_there():
    files = {test.partition("::")[0] for mutant in MUTANTS for test in mutant.tests}
    assert [file for file in sorted(files) if not (mutants.ROOT / file).is_file()] == []


def test_no_two_mutants_have_one_name():
    names = [mutant.name for mutant in MUTANTS]
    assert sorted(names) == sorted(set(names))
