"""The program builder compiles missing or stale programs, once and in parallel."""

import json
from collections import Counter

import numpy as np
import pytest

from tests.support.neuron_stand_ins import stand_in

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy

from mimo_v2_flash.execution import MissingProgramError  # noqa: E402
from mimo_v2_flash.execution.program_builder import ProgramBuilder  # noqa: E402
from mimo_v2_flash.execution.tracing import trace  # noqa: E402


def doubled(x):
    return x + x


def squared(x):
    return x * x


def module_of(length: int, function=doubled):
    return trace(function, {"x": np.ones(length, np.float32)}).module


MODULES = [module_of(length) for length in (1, 2, 3)]


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Return how often each program has been compiled so far."""
    stand_in(monkeypatch)
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("NEURONX_CC_CALLS", str(calls))
    return lambda: Counter(calls.read_text().split())


def titled(modules) -> dict[str, object]:
    return {f"program {number}": module for number, module in enumerate(modules)}


def builder(tmp_path, lnc: int = 2) -> ProgramBuilder:
    return ProgramBuilder(tmp_path / "programs", lnc=lnc)


def test_a_program_is_compiled_once(compiled, tmp_path):
    neff = builder(tmp_path).compile(MODULES[0])
    assert neff.read_bytes().startswith(b"NEFF")
    assert builder(tmp_path).compile(MODULES[0]) == builder(tmp_path).find(MODULES[0]) == neff
    assert compiled() == {neff.parent.name: 1}
    assert "--lnc 2" in (neff.parent / "compile.log").read_text()


def test_programs_of_other_cores_are_others(compiled, tmp_path):
    two, one = (builder(tmp_path, lnc=lnc).compile(MODULES[0]) for lnc in (2, 1))
    assert two != one
    assert sum(compiled().values()) == 2


def test_all_are_compiled_each_once(compiled, tmp_path):
    done: list[int] = []
    folders = builder(tmp_path).compile_all(
        titled([*MODULES, *MODULES]), jobs=2, advance=done.append
    )
    assert compiled() == {folder.name: 1 for folder in folders}
    assert folders[:3] == folders[3:]
    assert (len(set(folders)), sum(done)) == (3, 6)
    manifest = json.loads((tmp_path / "programs" / "manifest.json").read_text())
    titles = {program["name"]: program["title"] for program in manifest["programs"]}
    for number, folder in enumerate(folders[:3]):
        assert titles[folder.name] in (f"program {number}", f"program {number + 3}")
    builder(tmp_path).compile_all(titled(MODULES))
    assert sum(compiled().values()) == 3


@pytest.mark.parametrize(
    ("file", "compilations"), [("program.neff", 2), ("record.json", 2), ("program.hlo.pb", 1)]
)
def test_what_is_damaged_is_made_again(compiled, tmp_path, file, compilations):
    neff = builder(tmp_path).compile(MODULES[0])
    before = {path.name: path.read_bytes() for path in neff.parent.iterdir()}
    (neff.parent / file).write_bytes(b"x")
    builder(tmp_path).compile(MODULES[0])
    after = {path.name: path.read_bytes() for path in neff.parent.iterdir()}
    assert after.pop("compile.log")
    assert after == {name: before[name] for name in after}
    assert sum(compiled().values()) == compilations


def test_a_newer_compiler_compiles_again(compiled, tmp_path, monkeypatch):
    builder(tmp_path).compile(MODULES[0])
    monkeypatch.setenv("NEURONX_CC_VERSION", "2.28")
    message = (
        r"doubled-\w+ \(x.*float32 \[1\]\) was compiled by version 2.27.1, installed is 2.28, and"
    )
    with pytest.raises(ValueError, match=message):
        builder(tmp_path).find(MODULES[0])
    builder(tmp_path).compile(MODULES[0])
    assert sum(compiled().values()) == 2
    builder(tmp_path).find(MODULES[0])


def test_what_is_missing_is_named(compiled, tmp_path):
    message = r"program doubled-\w+ \(x.*: float32 \[2\]\) is missing, and compilation is disabled"
    with pytest.raises(ValueError, match=message):
        builder(tmp_path).find(MODULES[1])
    assert compiled() == {}


def test_without_a_compiler_modules_are_written_and_compiled_ones_found(
    compiled, tmp_path, monkeypatch
):
    neff = builder(tmp_path).compile(MODULES[0])
    monkeypatch.setenv("PATH", str(tmp_path))
    without_compiler = builder(tmp_path)
    assert without_compiler.compiler is None
    assert without_compiler.find(MODULES[0]) == without_compiler.compile(MODULES[0]) == neff
    folders = without_compiler.compile_all(titled(MODULES))
    assert [(folder / "program.hlo.pb").is_file() for folder in folders] == [True] * 3
    assert [(folder / "program.neff").is_file() for folder in folders] == [True, False, False]
    message = "is not compiled, and neuronx-cc is not installed: https://"
    with pytest.raises(MissingProgramError, match=message):
        without_compiler.compile(MODULES[1])


def test_what_was_written_without_a_compiler_is_compiled_later(compiled, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        builder(tmp_path).compile_all(titled(MODULES))
    assert builder(tmp_path).compile(MODULES[2]).is_file()
    assert sum(compiled().values()) == 1


def test_an_error_names_program_message_and_log_and_the_others_are_compiled(
    compiled, tmp_path, monkeypatch
):
    monkeypatch.setenv("NEURONX_CC_REFUSES", "squared")
    refused = [module_of(length, squared) for length in (4, 5)]
    with pytest.raises(ChildProcessError) as raised:
        builder(tmp_path).compile_all(titled([refused[0], *MODULES, refused[1]]))
    for line, length in zip(str(raised.value).splitlines(), (4, 5), strict=True):
        assert f"float32 [{length}]" in line
        assert "NCC_EVRF029" in line
        assert "compile.log)" in line
    for module in MODULES:
        builder(tmp_path).find(module)
    with pytest.raises(ChildProcessError, match="program squared-"):
        builder(tmp_path).compile(refused[0])


def test_what_lies_in_a_programs_place_is_not_overwritten(compiled, tmp_path):
    first, second = builder(tmp_path).compile_all(titled(MODULES[:2]))
    for path in second.iterdir():
        path.unlink()
    second.rmdir()
    first.rename(second)
    with pytest.raises(ValueError, match=f"{second} holds another program than its name says"):
        builder(tmp_path).compile_all(titled(MODULES))
    assert sum(compiled().values()) == 3 + 1  # the two before, the third, and the first again
