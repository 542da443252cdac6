"""The Neuron devices of this machine, and the SDK that is installed for them.

Source: AWS Neuron documentation, driver (`/dev/neuron0`, `/sys/module/neuron/version`).
"""

from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from mimo_v2_flash.execution.compiler import NeuronCompiler

from .diagnosis import OK, PROBLEM, Diagnosis, attempt

__all__ = ["diagnose_neuron"]

GUIDE = "README.md, Trainium2: Install"
RUNTIME = ("nkipy", "spike")


def diagnose_neuron(root: Path = Path("/")) -> Iterator[Diagnosis]:
    """Yield the diagnoses of devices and SDK; `root` is the folder that holds `dev` and `sys`."""
    count = len([*(root / "dev").glob("neuron[0-9]*")])
    yield _devices(count, root / "sys/module/neuron/version")
    yield attempt("Neuron SDK", partial(_sdk, count), GUIDE)


def _devices(count: int, version: Path) -> Diagnosis:
    driver = version.read_text().strip() if version.is_file() else None
    numbers = {"devices": count, "driver": driver}
    if not count and driver is None:
        return Diagnosis("Neuron devices", "none: this machine is no Trainium", numbers=numbers)
    text = f"{count}, driver {driver or 'of an unknown version'}"
    remedy = "" if count else "sudo modprobe -r neuron && sudo modprobe neuron"
    return Diagnosis("Neuron devices", text, OK if count else PROBLEM, remedy, numbers)


def _sdk(devices: int) -> Diagnosis:
    compiler = NeuronCompiler.installed()
    versions = {name: _version(name) for name in RUNTIME}
    versions["neuronx-cc"] = compiler.version if compiler else None
    missing = [name for name, version in versions.items() if version is None]
    words = [f"{name} {version}" for name, version in versions.items() if version is not None]
    if missing:
        words.append(f"without {', '.join(missing)}")
    is_needed = bool(devices and missing)
    remedy = GUIDE if is_needed else ""
    return Diagnosis(
        "Neuron SDK", ", ".join(words), PROBLEM if is_needed else OK, remedy, dict(versions)
    )


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
