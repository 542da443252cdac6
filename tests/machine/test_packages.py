"""Packages: what metadata require is compared with what is installed, extras of extras too."""

import platform
from importlib import metadata
from pathlib import Path

import pytest

from mimo_v2_flash.machine import packages as module
from mimo_v2_flash.machine.diagnosis import NOTE, OK, PROBLEM
from mimo_v2_flash.machine.packages import (
    EXTRAS,
    diagnose_packages,
    install_command,
    unmet_requirements,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a distribution, which is metadata and nothing else."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, version: str, *requires: str, extras: tuple[str, ...] = ()) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        lines += [f"Requires-Dist: {text}" for text in requires]
        (folder / "METADATA").write_text("\n".join(lines) + "\n\n")

    return install


def test_what_is_missing_or_too_old_is_named(install):
    install("zz-app", "1.0", "zz-old>=2", "zz-fine>=1,<3", "zz-absent")
    install("zz-old", "1.9")
    install("zz-fine", "2.5rc1")
    assert unmet_requirements("zz-app") == ["zz-old>=2", "zz-absent"]


def test_requirements_of_other_systems_and_of_extras_do_not_count(install):
    install(
        "zz-app",
        "1.0",
        "zz-absent; sys_platform == 'never'",
        'zz-extra; extra == "more"',
        extras=("more",),
    )
    assert unmet_requirements("zz-app") == []
    assert unmet_requirements("zz-app", "more") == ["zz-extra"]


def test_an_extra_has_those_of_its_extras(install):
    install(
        "zz-app",
        "1.0",
        'zz-app[inner]; extra == "outer"',
        'zz-lib[odd]>=1; extra == "inner"',
        extras=("outer", "inner"),
    )
    install("zz-lib", "1.1", 'zz-deep; extra == "odd"', extras=("odd",))
    assert unmet_requirements("zz-app", "outer") == ["zz-deep"]
    install("zz-deep", "7")
    assert unmet_requirements("zz-app", "outer") == []


def test_a_distribution_that_is_not_installed_is_told_apart(monkeypatch):
    monkeypatch.setattr(module, "DISTRIBUTION", "zz-never-installed")
    (diagnosis,) = diagnose_packages()
    assert (diagnosis.topic, diagnosis.level) == ("packages", PROBLEM)
    assert diagnosis.remedy == 'pip install -e "."'


def test_this_environment_runs_the_tests_so_that_it_has_what_they_need():
    diagnoses = {each.topic: each for each in diagnose_packages()}
    assert list(diagnoses) == ["Python", "packages", *(f"extra {extra}" for extra in EXTRAS)]
    python, required = diagnoses["Python"], diagnoses["packages"]
    assert (python.level, python.numbers["version"]) == (OK, platform.python_version())
    assert (required.level, required.numbers["unmet"]) == (OK, [])
    assert diagnoses["extra serve"].level == diagnoses["extra gguf"].level == OK


def test_an_extra_that_lacks_something_has_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(module, "unmet_requirements", lambda *_: ["zz-absent>=1"])
    diagnoses = {each.topic: each for each in diagnose_packages()}
    extra, required = diagnoses["extra serve"], diagnoses["packages"]
    assert (extra.level, extra.remedy) == (NOTE, 'pip install -e ".[serve]"')
    assert extra.text == "`mimo serve`; missing: zz-absent>=1"
    assert (required.level, required.remedy) == (PROBLEM, "pip install 'zz-absent>=1'")


def test_an_old_python_is_a_problem(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.2")
    python = next(diagnose_packages())
    assert python.level == PROBLEM
    assert "3.9.2, required is >=3.10" in python.text


def test_extras_are_those_of_the_distribution():
    provided = metadata.metadata("mimo-v2-flash").get_all("Provides-Extra")
    assert set(EXTRAS) <= set(provided or ())


def test_outside_of_a_checkout_the_package_is_installed_by_its_name(monkeypatch, tmp_path):
    assert install_command("serve") == 'pip install -e ".[serve]"'
    monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    assert install_command("serve") == 'pip install "mimo-v2-flash[serve]"'
    assert install_command() == 'pip install "mimo-v2-flash"'
