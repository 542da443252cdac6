"""The stand-ins for the Neuron SDK, in place of the real one."""

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "neuron"
CORE = "NEURON_RT_VISIBLE_CORES"


def variables() -> dict[str, str]:
    """Return the environment of a process that finds them."""
    return {
        "PATH": f"{FOLDER / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("PYTHONPATH")])),
    }


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process find them, on its first core."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("PATH", variables()["PATH"])
    monkeypatch.setenv(CORE, "0")
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "2")
