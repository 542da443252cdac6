"""neuronx-cc gets a module and gives a NEFF; what it says is kept, and shown when it fails."""

import shutil
import stat

import pytest

from mimo_v2_flash.backends.compiler import Compiler, compiler_arguments
from tests.support.neuron_stand_ins import FOLDER, stand_in

ARGUMENTS = compiler_arguments(lnc=2)


@pytest.fixture
def program(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    (tmp_path / "layer-1").mkdir()
    file = tmp_path / "layer-1" / "program.hlo.pb"
    file.write_bytes(b"module")
    return file


def test_without_one_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Compiler.installed() is None


def test_it_is_found_with_its_version(program, monkeypatch):
    found = Compiler.installed()
    assert found == Compiler(str(FOLDER / "bin" / "neuronx-cc"), "2.27.1")
    monkeypatch.setenv("NEURONX_CC_VERSION", "3.1+abc")
    assert Compiler.installed() != found


def test_one_that_says_no_version_is_refused(monkeypatch, tmp_path):
    broken = tmp_path / "neuronx-cc"
    broken.write_text("#!/bin/sh\necho cannot find libnrt >&2\nexit 3\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{shutil.os.environ['PATH']}")
    said = r"says no version \(exit status 3\): cannot find libnrt"
    with pytest.raises(ChildProcessError, match=said):
        Compiler.installed()


def test_a_neff_and_a_log_come_of_it(program, tmp_path):
    neff = Compiler.installed()(program, ARGUMENTS, tmp_path / "log")
    assert neff == b"NEFFmodule"
    said = (tmp_path / "log").read_text()
    assert f"{program} --pipeline compile SaveTemps --target trn2 --lnc 2" in said
    assert "--auto-cast=none" in said


def test_the_cores_are_those_that_are_asked_for():
    one, two = compiler_arguments(lnc=1), ARGUMENTS
    assert [(a, b) for a, b in zip(one, two, strict=True) if a != b] == [("1", "2")]


def test_an_error_is_shown_with_the_path_of_the_log(program, tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONX_CC_REFUSES", "layer-1")
    said = r"exit status 1: .*NCC_EVRF029\] Operation sort is not supported \(log: .*/log\)"
    with pytest.raises(ChildProcessError, match=said):
        Compiler.installed()(program, ARGUMENTS, tmp_path / "log")
    assert "NCC_EVRF029" in (tmp_path / "log").read_text()
