"""Fakes of the Neuron SDK: compiler and runtime, found by PATH and PYTHONPATH."""

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "neuron"
CORE = "NEURON_RT_VISIBLE_CORES"


def variables() -> dict[str, str]:
    """Return the environment variables of a process that uses the fakes."""
    return {
        "PATH": f"{FOLDER / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")])),
    }


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process use the fakes, on its first core."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("PATH", variables()["PATH"])
    monkeypatch.setenv(CORE, "0")
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "2")
