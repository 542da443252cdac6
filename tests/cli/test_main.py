"""The console script `mimo`: help, version, completion, unknown commands."""

import re
import subprocess
from importlib.metadata import version

import pytest

from mimo_v2_flash.cli.commands import COMMANDS
from mimo_v2_flash.cli.main import SHELLS, main


@pytest.fixture
def ran(capsys):
    """Return a function that runs `mimo` and returns status, standard output and error."""

    def run(*words: str) -> tuple[int, str, str]:
        return main(list(words)), *capsys.readouterr()

    return run


def test_the_version(ran):
    assert ran("--version") == (0, f"mimo-v2-flash {version('mimo-v2-flash')}\n", "")


def test_help_has_a_sentence_for_each_command(ran):
    status, out, err = ran("--help")
    assert (status, err) == (0, "")
    words = " ".join(out.split())
    for name, command in COMMANDS.items():
        assert f" {name} {command.summary}" in words


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(ran, command):
    status, out, err = ran(command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: mimo {command} ")
    assert COMMANDS[command].summary[:60] in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["genrate"], "mimo: no command 'genrate'; did you mean generate?"),
        (["xyz", "--debug"], f"mimo: no command 'xyz': the commands are {', '.join(COMMANDS)}"),
        ([], f"mimo: a command is required: {', '.join(COMMANDS)}; mimo --help describes them"),
        (["--seed=1"], "mimo: the following arguments are required: COMMAND"),
        (["test", "--sed", "1"], "mimo test: unknown: --sed 1; did you mean --seed?"),
    ],
)
def test_an_unknown_command_is_one_line(ran, words, line):
    status, out, err = ran(*words)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == line
    assert ("Traceback" in err) == ("--debug" in words)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command_and_option(ran, shell):
    status, script, err = ran("--print-completion", shell)
    assert (status, err) == (0, "")
    names = {*COMMANDS, "max-new-tokens", "expert-subset", "compile-cache", "tolerance"}
    assert {name for name in names if name not in script} == set()
    assert "stream-dtype" not in script  # an old name


def test_bash_completes_options_of_a_command(ran, tmp_path):
    script = tmp_path / "mimo.bash"
    script.write_text(ran("--print-completion", "bash")[1])
    program = f"""
        source {script}
        COMP_WORDS=(mimo compare --tol) COMP_CWORD=2
        _shtab_mimo
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert re.search(r"^--tolerance\b", done.stdout, re.MULTILINE), done.stderr


@pytest.mark.parametrize("columns", ["1", "0", "x", "9" * 5000])
def test_the_program_keeps_its_name_however_narrow_the_terminal_is(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["plan", "--context", "0"]) == 2
    assert capsys.readouterr().err.startswith("mimo plan: ")
    assert main(["plan", "--memory", "1TB"]) == 0
