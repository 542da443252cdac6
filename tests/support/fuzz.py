"""Cases of the fuzz: a command with odd options, in an odd environment, on a damaged folder.

A case is data, so that a failing one prints as what reproduces it: `run(case, folder)`.
"""

import io
import os
import re
import shutil
import signal
import sys
import warnings
from argparse import Action
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from huggingface_hub import constants
from hypothesis import strategies as st

from mimo_v2_flash.cli import self_check, session
from mimo_v2_flash.cli.commands import COMMANDS
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.cli.parser import CommandParser
from mimo_v2_flash.convert.store import Store
from mimo_v2_flash.cpu import thread_count
from mimo_v2_flash.expert_store.routing_trace import RoutingHeader, write_call
from mimo_v2_flash.parallel import init_process_group
from tests.support.fuzz_damage import Damage, apply, damages
from tests.support.tiny_text import write_text_checkpoint

__all__ = ["BASES", "VARIABLES", "Case", "Ending", "cases", "is_clean", "run", "write_folder"]

CONTROL = re.compile(r"\x1b\[[?\d;]*[a-zA-Z]")  # of a progress bar that FORCE_COLOR draws
LIMIT = 120  # seconds; a case that takes as long hangs, on a busy machine too
MODEL = ("--model", "model")
BASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "generate": (
        (*MODEL, "--prompt", "the", "--max-new-tokens", "2"),
        (*MODEL, "--prompt", "the", "--max-new-tokens", "1", "--chat"),
        ("--model", "prepared", "--prompt", "the", "--max-new-tokens", "1"),
        ("--model", "shards", "--prompt", "the", "--max-new-tokens", "1"),
    ),
    "run": ((*MODEL, "--input", "the", "--max-new-tokens", "1"),),
    "evaluate": ((*MODEL, "--text", "text.txt"),),
    "random": ((*MODEL, "--num-experts", "4", "--num-layers", "2", "--new-tokens", "2"),),
    "download": (("--model", "nobody/nothing"),),
    "test": ((),),
    "doctor": (MODEL,),
    "prepare": (
        ("--checkpoint", "model", "--output", "out", "--dry-run"),
        ("--checkpoint", "model", "--output", "out", "--num-layers", "1"),
        ("--checkpoint", "model", "--output", "begun", "--num-layers", "1", "--resume"),
        ("--checkpoint", "model", "--output", "prepared"),
    ),
    "plan": (MODEL,),
    "cost": ((*MODEL, "--context", "64", "--chunk", "8"),),
    "compile": ((*MODEL, "--context", "64", "--chunk", "8"),),
    "trace": ((*MODEL, "--tokens", "3"), (*MODEL, "--prompt", "the")),
    "compare": (("trace.safetensors", "trace.safetensors"),),
    "experts": (
        ("simulate", "routing.jsonl"),
        ("pin", "routing.jsonl", "--capacity", "200kB", "--output", "set.json"),
    ),
}
"""Words of each command that succeed, run in the folder that `write_folder` writes."""

VARIABLES = (
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE", "GLOO_SOCKET_IFNAME"),
    *("MIMO_NUM_THREADS", "MIMO_API_KEY", "OMP_NUM_THREADS", "NEURON_RT_VISIBLE_CORES"),
    *("NEURON_RT_ROOT_COMM_ID", "NEURON_LOGICAL_NC_CONFIG", "HF_ENDPOINT", "HF_HOME", "HF_TOKEN"),
    *("HOME", "PATH", "TERM"),
    *("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TMPDIR"),
)
"""Every environment variable that the package reads, or a library for it when it is used."""

ODD_TEXTS = (
    *("", " ", "0", "1", "2", "3", "-1", "+1", "1_0", "1.0", "2.5", "1e3", "1e400", "nan", "-inf"),
    *("x", "None", "true", "[1]", "0-3,8", "3-1", "1-", "-", "--", "%s", "{}", "a=b", "fp8"),
    *("24GB", "1e999GB", "127.0.0.1", "nosuch0", "notaport", "65536", ".", "..", "model"),
    *("text.txt", "model/config.json", "absent/x", "absent.json", "/proc/none/x"),
    *("trace.safetensors", "prepared", "shards", "begun", "é", "٣", "\udcff", "a\nb"),
    *("9" * 30, "9" * 5000, "9" * 5000 + "GB", "1000000000", "2147483647", "65536", "x" * 300),
)


class Case(NamedTuple):
    """A run of a command: its words, variables of its environment, and a file that is damaged."""

    words: tuple[str, ...]
    environment: dict[str, str]
    damages: tuple[Damage, ...]


class Ending(NamedTuple):
    """The exit status of a run, and what it wrote."""

    status: int
    out: str
    err: str


def write_folder(folder: Path) -> list[str]:
    """Write a model, and what commands make of it; return the names of the files to damage."""
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 5, "eos_token_id": [0, 2]}
    write_text_checkpoint(folder / "model", **settings)
    (folder / "text.txt").write_text("the thin thing\n")
    prepare = ("prepare", "--checkpoint", "model")
    with _inside(folder):
        for words in (
            (*prepare, "--output", "prepared"),
            (*prepare, "--output", "shards", "--expert-subset", "0-3", "--expert-parallel", "2"),
            ("trace", *MODEL, "--tokens", "3", "1"),
        ):
            ending = _captured(words, {})
            assert ending.status == 0, ending
        _interrupt((*prepare, "--output", "begun", "--num-layers", "1"))
    with (folder / "routing.jsonl").open("w") as file:
        RoutingHeader("m", None, 3, False, [1, 2], [[9] * 4, [8] * 4]).write(file)
        for layer in (1, 2, 1, 2):
            write_call(file, layer, layer == 2, np.array([[0, 3], [1, 3]]))
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in files)


def _interrupt(words: tuple[str, ...]) -> None:
    """Run a preparation until a few tasks are done, as if it were killed then."""
    write, written = Store.write, []

    def stop(store: Store, *arguments: Any) -> None:
        write(store, *arguments)
        written.append(1)
        if len(written) > 4:
            raise KeyboardInterrupt

    with mock.patch.object(Store, "write", stop):
        assert _captured(words, {}).status == 130


@st.composite
def cases(draw: Any, files: list[str], commands: Sequence[str] = tuple(BASES)) -> Case:
    """Draw a case on a folder that holds these files: one or several things in it are odd."""
    name = draw(st.sampled_from([name for name in commands for _ in BASES[name]]))
    base = draw(st.sampled_from(BASES[name]))
    odd = draw(st.sampled_from(["file", "file", "file", "option", "option", "variable", "all"]))
    options, environment, damaged = [], {}, []
    if odd in ("option", "all"):
        options = draw(st.lists(_option(name), min_size=1, max_size=2))
    if odd in ("variable", "all"):
        environment = draw(_environments)
    if odd in ("file", "all"):
        read = [file for file in files if file.split("/")[0] in base] or files
        damaged = draw(st.lists(damages(read), min_size=1, max_size=2))
    words = (word for option in options for word in option)
    return Case((name, *base, *words), environment, tuple(damaged))


_odd_variables = st.dictionaries(
    st.sampled_from(VARIABLES), st.sampled_from(ODD_TEXTS), min_size=1, max_size=3
)
_environments = st.one_of(
    _odd_variables,
    _odd_variables.map(
        lambda odd: {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "::1", "MASTER_PORT": "1"} | odd
    ),
)


@cache
def _actions(command: str) -> list[Action]:
    """Return the options of a command; help ends the run before it begins."""
    parser = CommandParser(prog="mimo", command=COMMANDS[command]).load()
    return [action for action in parser._actions if action.dest not in ("help", "debug")]


@st.composite
def _option(draw: Any, command: str) -> tuple[str, ...]:
    """Draw an option of a command, or an argument, with an odd value or an allowed one."""
    action = draw(st.sampled_from(_actions(command)))
    choices = tuple(map(str, action.choices or ()))
    value = st.sampled_from((*choices * 5, *ODD_TEXTS))
    if not action.option_strings:
        return (draw(value),)
    name = draw(st.sampled_from(action.option_strings))
    if action.nargs == 0:
        return (name,)
    if draw(st.booleans()):
        return (f"{name}={draw(value)}",)
    return (name, *draw(st.lists(value, min_size=action.nargs is None, max_size=2)))


def is_clean(ending: Ending) -> bool:
    """Return whether a run ended as every run does: done, "no", or one line about the input."""
    lines = CONTROL.sub("", ending.err).splitlines()
    errors = [line for line in lines if line.startswith("mimo") and ": warning: " not in line]
    if ending.status == 2:
        return len(errors) == 1 and lines[-1] == errors[0] and len(errors[0]) > len("mimo plan: ")
    return ending.status in (0, 1) and not errors and "Traceback" not in ending.err


def run_inline(case: Case) -> Ending:
    """Run a case in this process; the folder is the working directory."""
    return _captured(case.words, case.environment)


def run(case: Case, template: Path, how: Callable[[Case], Ending] = run_inline) -> Ending:
    """Run a case in a copy of the folder that `write_folder` wrote."""
    folder = template.with_name("folder")
    folder.mkdir()
    try:
        for path in template.iterdir():
            if path.name == "model" or any(path.name in word for word in case.words):
                # Only the model is never written in place.
                copy = os.link if path.name == "model" else shutil.copyfile
                copytree = partial(shutil.copytree, copy_function=copy)
                (copytree if path.is_dir() else copy)(path, folder / path.name)
        for damage in case.damages:
            apply(damage, folder / damage.file)
        with _inside(folder):
            return how(case)
    finally:
        shutil.rmtree(folder)


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Make `folder` the working directory, and its sibling the home, until the block ends."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _captured(words: tuple[str, ...], environment: dict[str, str]) -> Ending:
    """Run `mimo` in this process as it runs in one of its own."""
    streams = [
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors=errors)
        for errors in ("strict", "backslashreplace")
    ]
    thread_count._resolved.cache_clear()
    with (
        redirect_stdout(streams[0]), redirect_stderr(streams[1]), warnings.catch_warnings(),
        mock.patch.dict(os.environ, environment), pytest.MonkeyPatch.context() as patch,
        mock.patch.object(session, "init_process_group", JOIN), _limited(),
        mock.patch.object(constants, "ENDPOINT", "http://127.0.0.1:9"),
        mock.patch.object(self_check, "CHECKS", self_check.CHECKS[:2]),
    ):  # fmt: skip
        warnings.simplefilter("ignore")
        patch.setitem(sys.modules, "nkipy", None)  # what a case imports stays, numba above all
        status = main(words)
    thread_count._resolved.cache_clear()
    for stream in streams:
        stream.flush()
    return Ending(status, *(stream.buffer.getvalue().decode() for stream in streams))


JOIN = partial(init_process_group, start_timeout=0.5)


class HangError(BaseException):
    """A run that did not end; no `except Exception` takes it for an error."""


@contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
