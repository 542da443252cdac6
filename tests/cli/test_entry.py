"""What happens to a command becomes an exit status and at most one line, for every entrance."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mimo_v2_flash.cli import session
from mimo_v2_flash.cli.entry import CommandError, Invocation, launch
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.parallel import RankError

ROOT = Path(__file__).parents[2]
PARSER = SimpleNamespace(
    prog="mimo test",
    spelled={"chunk": "--chunk", "text": "--text"},
    command=SimpleNamespace(on_ranks=True),
)


@pytest.fixture
def ends(monkeypatch, capsys):
    """Return a function that runs a command which raises, and returns status and error line."""

    def run(error: BaseException, *words: str) -> tuple[int, str]:
        def raises(*_: object) -> int:
            raise error

        monkeypatch.setattr(session, "run", raises)
        options = {"text": "/nowhere", "chunk": 1}
        status = launch("mimo", lambda _: Invocation(PARSER, options), list(words))
        out, err = capsys.readouterr()
        assert out == ""
        return status, err

    return run


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("max_step must be 1"), "--chunk must be 1"),
        (ImportError("text needs transformers"), "text needs transformers"),
        (FileNotFoundError(2, "No such", "/nowhere"), "--text /nowhere: no such"),
        (MemoryError("Unable to allocate 1 TiB"), "Unable to allocate 1 TiB"),
        (CommandError("rank 3 is lost"), "rank 3 is lost"),
        (ValueError("two\nlines"), "two lines"),
        (OSError(28, "No space left"), "[Errno 28] No space left"),  # of a file without a name
    ],
)
def test_bad_input_is_a_line_and_status_2(ends, error, line):
    assert ends(error) == (2, f"mimo test: {line}\n")


@pytest.mark.parametrize("error", [KeyError("a"), RuntimeError("b\nc"), AssertionError()])
def test_anything_else_is_a_fault_a_line_and_status_70(ends, error):
    text = " ".join(f"{type(error).__name__}: {error}".split())
    line = f"mimo test: a fault of the program: {text} (--debug shows where)\n"
    assert ends(error) == (70, line)


@pytest.mark.parametrize(("error", "status"), [(ValueError("a"), 2), (KeyError("a"), 70)])
def test_debug_shows_where_of_both_kinds(ends, error, status):
    ended, err = ends(error, "--debug")
    assert ended == status
    assert err.startswith("Traceback (most recent call last):\n")
    assert "in raises" in err
    assert err.splitlines()[-1].startswith("mimo test: ")


def test_an_interrupt_is_quiet(ends):
    assert ends(KeyboardInterrupt()) == (130, "")


def test_a_rank_is_named(ends, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert ends(ValueError("no")) == (2, "mimo test: rank 3: no\n")


@pytest.mark.parametrize(
    "variables",
    [{"WORLD_SIZE": "4"}, {"WORLD_SIZE": "x", "RANK": "3"}, {"WORLD_SIZE": "", "RANK": ""}],
)
def test_a_line_does_not_trust_the_variables_that_it_may_be_about(ends, monkeypatch, variables):
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert ends(ValueError("no")) == (2, "mimo test: no\n")


def test_a_command_that_joins_no_ranks_has_none(ends, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(PARSER.command, "on_ranks", False)
    assert ends(ValueError("no")) == (2, "mimo test: no\n")


class Full(io.StringIO):
    """A stream on a full disk: it fails when it is written, or only when it is flushed."""

    def __init__(self, *, at: str) -> None:
        super().__init__()
        self._at = at

    def write(self, text: str) -> int:
        if self._at == "write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)

    def flush(self) -> None:
        if self._at == "flush" and self.getvalue():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("at", ["write", "flush"])
@pytest.mark.parametrize("words", [["plan"], ["--version"], ["plan", "--json"]])
def test_a_full_standard_output_is_named(words, at, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Full(at=at))
    assert main(words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.partition(": ")[2] == "standard output: no space left on device"


def test_a_closed_standard_output_is_named_before_anything_is_done(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(session, "run", None)
    assert main(["plan"]) == 2
    assert capsys.readouterr().err == "mimo: standard output: bad file descriptor\n"


@pytest.mark.parametrize("stream", [None, Full(at="write")])
def test_without_standard_error_the_status_is_all_that_is_left(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["plan", "--memory", "1 TiB"]) == 2
    assert main(["plan", "--memory", "1TB"]) == 0


def test_a_lost_rank_is_no_fault_of_the_program(monkeypatch, capsys):
    def lost(*_: object, **__: object) -> None:
        raise RankError("rank 1 is lost")

    monkeypatch.setattr(session, "init_process_group", lost)
    options = {"json": None, "debug": False}
    assert launch("mimo", lambda _: Invocation(PARSER, options), []) == 2
    assert capsys.readouterr().err == "mimo test: rank 1 is lost\n"


def test_before_there_is_a_command_the_program_is_named(capsys):
    def parse(_: object) -> Invocation:
        raise ImportError("no module")

    assert launch("mimo", parse, []) == 2
    assert capsys.readouterr().err == "mimo: no module\n"


ENTRANCES = {
    "mimo": ("-m", "mimo_v2_flash", "plan"),
    "run_example.py": ("run_example.py", "--mode", "plan"),
}


@pytest.mark.parametrize("entrance", ENTRANCES.values(), ids=ENTRANCES)
@pytest.mark.parametrize(("option", "statuses"), [("--memory=1TB", {141}), ("--help", {0, 141})])
def test_a_closed_pipe_ends_a_command_quietly(entrance, option, statuses):
    """Argparse itself passes over a pipe that nobody reads when it writes help."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, *entrance, option],
        stdout=write, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    os.close(write)
    assert done.stderr == ""
    assert done.returncode in statuses


@pytest.mark.parametrize("entrance", ENTRANCES.values(), ids=ENTRANCES)
def test_a_warning_is_one_line_that_names_the_program(entrance, tmp_path):
    config = json.loads((ROOT / "examples" / "mimo-tiny" / "config.json").read_text())
    config |= {"new_key": 1, "quantization_config": {"quant_method": "fp8", "newer": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, *entrance, "--model", str(tmp_path), "--context", "64"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    prog = "run_example.py" if entrance[0] == "run_example.py" else "mimo"
    names = "quantization_config.newer, new_key"
    assert done.stderr.splitlines() == [
        f"{prog}: warning: {tmp_path / 'config.json'}: not understood and without effect: {names}"
    ]
    assert done.returncode in {0, 1}


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
@pytest.mark.parametrize("entrance", ENTRANCES.values(), ids=ENTRANCES)
def test_a_process_on_a_full_disk_ends_with_one_line(entrance):
    """The interpreter flushes its streams once more at its end: it has nothing to add."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, *entrance],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
    assert done.returncode == 2
    line = done.stderr.splitlines()[0]
    assert done.stderr == f"{line}\n"
    assert line.endswith(": standard output: no space left on device")
