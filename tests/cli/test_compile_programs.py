"""--compile-only: every program of a deployment, in a folder where --mode generate finds them."""

import json

import pytest

import run_example
from tests.support.neuron_stand_ins import stand_in
from tests.support.reports import run_mode
from tests.support.tiny_text import CONTEXT, write_text_checkpoint

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytest.importorskip("jax")
pytestmark = pytest.mark.nkipy

FLOAT32 = ("--cache-dtype", "float32", "--stream-dtype", "float32")
SIZES = ("--context", CONTEXT, "--chunk", 16, *FLOAT32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("text")).folder


@pytest.fixture
def compiled(capsys, checkpoint, tmp_path, monkeypatch):
    """Return a function that runs the mode and returns standard output and standard error."""
    stand_in(monkeypatch)

    def run(*arguments: object, status: int = 0) -> tuple[str, str]:
        options = ["--model", checkpoint, "--programs", tmp_path / "programs", *arguments]
        command = ["--backend", "neuron", "--compile-only", *map(str, (*options, *SIZES))]
        assert run_example.main(command) == status
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def test_what_is_compiled_is_all_that_a_text_needs(compiled, capsys, checkpoint, tmp_path):
    out, _ = compiled("--jobs", 2)
    assert "Compiled by neuronx-cc 2.27.1" in out
    write = ["--model", checkpoint, "--prompt", "the end", "--max-new-tokens", 30]
    expected, _ = run_mode(capsys, "generate", *write)
    cached = ["--backend", "neuron", "--skip-compile", "--programs", tmp_path / "programs"]
    assert run_mode(capsys, "generate", *write, *cached, *SIZES)[0] == expected


def test_a_manifest_says_what_every_program_takes(compiled, tmp_path):
    compiled()
    manifest = json.loads((tmp_path / "programs" / "manifest.json").read_text())
    names = [program["name"] for program in manifest["programs"]]
    folders = [path.name for path in (tmp_path / "programs").iterdir() if path.is_dir()]
    assert sorted(names) == sorted(folders)
    for program in manifest["programs"]:
        assert program["instructions"] > 0
        assert " tokens" in program["title"]
        assert program["input_bytes"] == sum(array["bytes"] for array in program["inputs"])
        assert program["compiler"] == "2.27.1"


def test_without_neuronx_cc_the_modules_are_written_and_that_is_said(
    compiled, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    out, _ = compiled()
    assert "Not compiled: neuronx-cc is not installed" in out
    folders = [path for path in (tmp_path / "programs").iterdir() if path.is_dir()]
    assert len(folders) > 4
    for folder in folders:
        assert (folder / "program.hlo.pb").is_file()
        assert not (folder / "program.neff").exists()


def test_a_program_that_is_missing_is_named(compiled, capsys, checkpoint, tmp_path):
    compiled()
    write = ["--model", checkpoint, "--prompt", "the end", "--max-new-tokens", 3, "--skip-compile"]
    runtime = ["--backend", "neuron", "--programs", tmp_path / "programs", "--chunk", 8]
    out, err = run_mode(capsys, "generate", *write, *runtime, status=2)
    assert out == ""
    assert "is missing, and compilation is disabled" in err


def test_an_error_of_the_compiler_is_shown_with_its_log(compiled, monkeypatch):
    monkeypatch.setenv("NEURONX_CC_REFUSES", "embed")
    _, err = compiled(status=2)
    assert "program embed-" in err
    assert "NCC_EVRF029" in err
    assert "compile.log)" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--jobs", 0), "argument --jobs: '0' is not an integer above 0"),
        (("--expert-parallel", 3), "--expert-parallel 3: allowed is"),
        (("--batch-size", 10**9), "It does not fit"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    compiled, tmp_path, arguments, message
):
    _, err = compiled(*arguments, status=2)
    assert message in err
    assert not (tmp_path / "programs").exists()
