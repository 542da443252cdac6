"""Python and the packages: what this distribution requires, and what of it is installed.

Source: Core metadata specification (Requires-Dist, Provides-Extra); importlib.metadata reads it.
"""

import platform
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from .diagnosis import NOTE, OK, PROBLEM, Diagnosis

__all__ = ["EXTRAS", "diagnose_packages", "install_command", "unmet_requirements"]

DISTRIBUTION = "mimo-v2-flash"
CHECKOUT = Path(__file__).parents[2]
EXTRAS = {
    "text": "tokenizer and chat template",
    "chat": "`mimo run` in a terminal",
    "serve": "`mimo serve`",
    "gguf": "GGUF files",
    "plot": "plots",
    "distributed": "ranks as processes",
    "xla": "traced programs on a CPU",
    "trainium": "traced programs on Trainium",
}
"""Extras that users install, and what each is for; others are for developers."""


def install_command(extra: str = "") -> str:
    """Return the command that installs this package with an extra, in a checkout that one."""
    suffix = f"[{extra}]" if extra else ""
    if (CHECKOUT / "pyproject.toml").is_file():
        return f'pip install -e ".{suffix}"'
    return f'pip install "{DISTRIBUTION}{suffix}"'


def unmet_requirements(distribution: str, extra: str = "") -> list[str]:
    """Return what an installed distribution, or one of its extras, requires and is not installed.

    Raises
    ------
    PackageNotFoundError
        If the distribution itself is not installed.
    """
    requirements = map(Requirement, metadata.requires(distribution) or ())
    return [
        unmet
        for requirement in requirements
        if _is_of(requirement, extra)
        for unmet in _unmet(requirement)
    ]


def _is_of(requirement: Requirement, extra: str) -> bool:
    """Return whether a requirement is the extra's: of "" what is required without any."""
    marker = requirement.marker
    without = marker is None or marker.evaluate({"extra": ""})
    if not extra or marker is None:
        return without and not extra
    return marker.evaluate({"extra": extra}) and not without


def _unmet(requirement: Requirement) -> Iterator[str]:
    """Yield a requirement unless it is installed, and those of its extras that are not."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        version = ""
    if not (version and requirement.specifier.contains(version, prereleases=True)):
        yield f"{requirement.name}{requirement.specifier}"
        return
    for extra in sorted(requirement.extras):
        yield from unmet_requirements(requirement.name, extra)


def diagnose_packages() -> Iterator[Diagnosis]:
    """Yield the diagnoses of Python, of what is required, and of each extra."""
    try:
        required = metadata.metadata(DISTRIBUTION)["Requires-Python"]
    except metadata.PackageNotFoundError:
        text = f"{DISTRIBUTION} is not installed: nobody can say what it requires"
        yield Diagnosis("packages", text, PROBLEM, install_command())
        return
    yield _python(required)
    yield _required()
    yield from map(_extra, EXTRAS)


def _python(required: str) -> Diagnosis:
    version = platform.python_version()
    text = f"{platform.python_implementation()} {version}"
    if SpecifierSet(required).contains(version, prereleases=True):
        return Diagnosis("Python", text, numbers={"version": version})
    remedy = "python3.12 -m venv .venv && . .venv/bin/activate"
    return Diagnosis("Python", f"{text}, required is {required}", PROBLEM, remedy)


def _required() -> Diagnosis:
    version, unmet = metadata.version(DISTRIBUTION), unmet_requirements(DISTRIBUTION)
    text = f"{DISTRIBUTION} {version}, with all that it requires"
    if unmet:
        text = f"missing, or in another version: {', '.join(unmet)}"
    remedy = " ".join(["pip install", *map(shlex.quote, unmet)]) if unmet else ""
    numbers = {"version": version, "unmet": unmet}
    return Diagnosis("packages", text, PROBLEM if unmet else OK, remedy, numbers)


def _extra(extra: str) -> Diagnosis:
    unmet = unmet_requirements(DISTRIBUTION, extra)
    text = EXTRAS[extra] + (f"; missing: {', '.join(unmet)}" if unmet else "")
    remedy = install_command(extra) if unmet else ""
    return Diagnosis(f"extra {extra}", text, NOTE if unmet else OK, remedy, {"unmet": unmet})
