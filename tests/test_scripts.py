"""run_example.py in a subprocess: modes, help, and errors of one line without a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from run_example import MODES

ROOT = Path(__file__).parents[1]


def run_example(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "run_example.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_the_self_check_passes():
    done = run_example("--mode", "test")
    assert done.returncode == 0, done.stderr
    assert "checks passed" in done.stdout


@pytest.mark.parametrize(
    ("mode", "option"),
    [("test", "--seed"), ("random", "--seed"), ("generate", "--prompt"), ("evaluate", "--text")],
)
def test_a_mode_explains_itself(mode, option):
    done = run_example("--mode", mode, "--help")
    assert done.returncode == 0
    assert option in done.stdout


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("generate", "one of the arguments --prompt --prompt-file is required"),
        ("evaluate", "the following arguments are required: --"),
    ],
)
def test_what_a_mode_needs_is_named(mode, message):
    done = run_example("--mode", mode)
    assert done.returncode == 2
    assert message in done.stderr


def test_without_a_mode_the_modes_are_listed():
    done = run_example()
    assert done.returncode == 2
    assert f"required: --mode, one of {', '.join(MODES)}" in done.stderr


def test_a_mistake_is_one_line():
    done = run_example("--mode", "random", "--num-experts", "300")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["run_example.py: --num-experts 300 is not in 1..256"]


def test_an_option_of_another_mode_is_refused():
    done = run_example("--mode", "test", "--num-experts", "8")
    assert done.returncode == 2
    assert "--num-experts" in done.stderr


def test_a_plan_is_asked_for_either_way():
    sizes = ("--expert-parallel", "32", "--tensor-parallel", "4")
    done, same = run_example("--plan", *sizes), run_example("--mode", "plan", *sizes)
    assert done.returncode == same.returncode == 0
    assert done.stdout == same.stdout
    assert "It fits" in done.stdout
    again = run_example("--mode", "plan", "--plan", *sizes)
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("short", "mode"), [("--plan", "test"), ("--compile-only", "plan"), ("--compile-only", "test")]
)
def test_a_short_word_for_a_mode_is_refused_with_another(short, mode):
    both = run_example(short, "--mode", mode)
    assert both.returncode == 2
    assert f"--mode {mode}: not allowed with {short}" in both.stderr
