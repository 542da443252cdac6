"""The call of neuronx-cc: module in, NEFF out; its output is logged, and shown when it fails."""

import os
from pathlib import Path

import pytest

from mimo_v2_flash.execution.compiler import NeuronCompiler, compiler_arguments
from tests.support.neuron_stand_ins import FOLDER, stand_in

ARGUMENTS = compiler_arguments(lnc=2)


@pytest.fixture
def program(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    (tmp_path / "layer-1").mkdir()
    file = tmp_path / "layer-1" / "program.hlo.pb"
    file.write_bytes(b"module")
    return file


def test_without_a_compiler_on_the_path_none_is_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert NeuronCompiler.installed() is None


def test_the_installed_compiler_is_found_with_its_version(program, monkeypatch):
    compiler = NeuronCompiler.installed()
    assert compiler == NeuronCompiler(str(FOLDER / "bin" / "neuronx-cc"), "2.27.1")
    monkeypatch.setenv("NEURONX_CC_VERSION", "3.1+abc")
    assert NeuronCompiler.installed() != compiler


def script(folder: Path, *lines: str) -> str:
    """Write a compiler, a shell script of these lines, and return its path."""
    file = folder / "neuronx-cc"
    file.write_text("\n".join(["#!/bin/sh", *lines]))
    file.chmod(0o700)
    return str(file)


def test_a_compiler_that_prints_no_version_is_refused(monkeypatch, tmp_path):
    script(tmp_path, "echo cannot find libnrt >&2", "exit 3")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    message = r"prints no version \(exit status 3\): cannot find libnrt"
    with pytest.raises(ChildProcessError, match=message):
        NeuronCompiler.installed()


def test_a_neff_and_a_log_are_written(program, tmp_path):
    neff = NeuronCompiler.installed()(program, ARGUMENTS, tmp_path / "log")
    assert neff == b"NEFFmodule"
    log = (tmp_path / "log").read_text()
    assert f"{program} --pipeline compile SaveTemps --target trn2 --lnc 2" in log
    assert "--auto-cast=none" in log


def test_the_cores_are_those_that_are_asked_for():
    one, two = compiler_arguments(lnc=1), ARGUMENTS
    assert [(a, b) for a, b in zip(one, two, strict=True) if a != b] == [("1", "2")]


def test_an_error_is_shown_with_the_path_of_the_log(program, tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONX_CC_REFUSES", "layer-1")
    message = r"exit status 1: .*NCC_EVRF029\] Operation sort is not supported \(log: .*/log\)"
    with pytest.raises(ChildProcessError, match=message):
        NeuronCompiler.installed()(program, ARGUMENTS, tmp_path / "log")
    assert "NCC_EVRF029" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("echo x > program.neff", "echo broken >&2", "exit 70"), "exit status 70: broken"),
        (("echo finished",), "exit status 0: finished"),
        (("exit 1",), "exit status 1: no output"),
    ],
)
def test_a_neff_is_taken_from_a_compiler_that_succeeds(program, tmp_path, lines, message):
    compiler = NeuronCompiler(script(tmp_path, *lines), "1")
    with pytest.raises(ChildProcessError, match=message):
        compiler(program, ARGUMENTS, tmp_path / "log")
