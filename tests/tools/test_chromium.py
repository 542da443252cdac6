"""The tool that finds or installs Chromium: what it runs, what it says, its exit status."""

import os
from types import SimpleNamespace

import pytest

from tools import chromium

UPDATE_FAILS = '#!/bin/sh\ntest "$1" != update\n'
INSTALLS_NOTHING = "#!/bin/sh\n"
INSTALLS = '#!/bin/sh\ntest "$1" != install || /bin/ln -s /bin/sh "{}/chromium"\n'


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a machine whose only programs are those of a folder, and what pytest would test."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    tested = []
    monkeypatch.setattr(chromium, "run_tests", lambda arguments: tested.append(arguments) or 5)

    def add(name, program="#!/bin/sh\n"):
        path = tmp_path / name
        path.write_text(program.format(tmp_path))
        path.chmod(0o755)
        return path

    return SimpleNamespace(add=add, tested=tested)


@pytest.mark.parametrize("name", chromium.NAMES)
def test_chromium_is_found_on_the_path(machine, name):
    path = machine.add(name)
    machine.add("apt-get", "#!/bin/sh\nexit 1\n")
    assert chromium.find_chromium() == str(path)
    assert chromium.main(["-x"]) == 5
    assert machine.tested == [["-x"]]


def test_the_variable_names_another_one(machine, monkeypatch, tmp_path):
    machine.add("chromium")
    monkeypatch.setenv("CHROMIUM", str(machine.add("browser")))
    assert chromium.find_chromium() == str(tmp_path / "browser")


def test_what_is_missing_is_installed(machine):
    machine.add("apt-get", INSTALLS)
    assert chromium.main([]) == 5


@pytest.mark.parametrize(
    ("apt_get", "user", "status", "words"),
    [
        (None, 0, 0, "apt-get cannot be used"),
        (UPDATE_FAILS, 0, 0, "apt-get cannot be used"),
        (INSTALLS, 1000, 0, "apt-get cannot be used"),
        (INSTALLS_NOTHING, 0, 1, "apt-get did not install it"),
    ],
)
def test_it_fails_only_where_apt_get_works(
    machine, monkeypatch, capsys, apt_get, user, status, words
):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if apt_get:
        machine.add("apt-get", apt_get)
    assert chromium.main([]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert machine.tested == []
