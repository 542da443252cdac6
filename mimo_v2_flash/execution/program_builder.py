"""Programs from their modules: found in a folder, or compiled into it, several at a time."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from .compile_cache import CacheEntry, CompileCache
from .compiler import INSTALL, NeuronCompiler, compiler_arguments

__all__ = ["JOBS", "ProgramBuilder"]

JOBS = 4
"""Compilers at one time; each takes several cores and some gigabytes."""


class ProgramBuilder:
    """A folder of programs, and the compiler that fills it.

    Parameters
    ----------
    folder
        Of the programs; made if it is not there.
    lnc
        Physical cores of a logical one, 1 or 2.

    Raises
    ------
    ValueError
        If the folder holds other things.
    ChildProcessError
        If the compiler does not say its version.

    Attributes
    ----------
    folder
        Of the programs.
    compiler
        The one that is installed, if one is.
    """

    def __init__(self, folder: Path, *, lnc: int) -> None:
        self.folder, self.compiler = folder, NeuronCompiler.installed()
        self._cache = CompileCache(folder, compiler_arguments(lnc=lnc))

    def find(self, module: Any) -> Path:
        """Return the NEFF of a program that has been compiled.

        Raises
        ------
        ValueError
            If it has not, or is damaged, stale or not ours; the message names it.
        """
        entry = self._cache.entry(module)
        if why := self._why_stale(entry):
            raise ValueError(f"program {_described(entry)} {why}, and nothing may be compiled")
        return entry.neff

    def compile(self, module: Any) -> Path:
        """Return the NEFF of a program, compiled if it has not been, or not by this compiler.

        Raises
        ------
        FileNotFoundError
            If it has to be, and no compiler is installed.
        ChildProcessError
            If the compiler fails; the message has what it said and the log's path.
        ValueError
            If in the program's place lies something else.
        """
        entry = self._cache.entry(module)
        if (why := self._why_stale(entry)) and self.compiler is None:
            raise FileNotFoundError(
                f"program {_described(entry)} {why}, and neuronx-cc is not installed: {INSTALL}"
            )
        self._build(entry)
        return entry.neff

    def compile_all(
        self,
        modules: Mapping[str, Any],
        *,
        jobs: int = JOBS,
        advance: Callable[[int], object] = int,
    ) -> list[Path]:
        """Return the folder of every program, by titles for people, compiled `jobs` at a time.

        Without a compiler they have the module alone. `advance` is called with 1 as each is done.

        Raises
        ------
        ChildProcessError
            If the compiler fails; the message has all failures. Everything else has been compiled.
        ValueError
            If in a program's place lies something else.
        """
        entries = [self._cache.entry(module, title) for title, module in modules.items()]
        with ThreadPoolExecutor(jobs) as pool:
            builder = [pool.submit(self._build, entry) for entry in entries]
            for _ in as_completed(builder):
                advance(1)
        errors = [error for build in builder if (error := build.exception())]
        failed = [error for error in errors if isinstance(error, ChildProcessError)]
        if errors != failed:
            raise next(error for error in errors if error not in failed)
        if failed:
            raise ChildProcessError("\n".join(map(str, failed)))
        return [entry.folder for entry in entries]

    @property
    def _version(self) -> str | None:
        return self.compiler.version if self.compiler else None

    def _why_stale(self, entry: CacheEntry) -> str | None:
        return self._cache.why_stale(entry, self._version)

    def _build(self, entry: CacheEntry) -> None:
        if not self._why_stale(entry):
            return
        with self._cache.writing(entry):
            if not self._why_stale(entry):  # another process has compiled it meanwhile
                return
            neff = self._neff(entry)
            self._cache.finish(entry, neff, self._version)

    def _neff(self, entry: CacheEntry) -> bytes | None:
        if self.compiler is None:
            return None
        try:
            return self.compiler(entry.module, self._cache.arguments, entry.log)
        except ChildProcessError as error:
            raise ChildProcessError(f"program {_described(entry)}: {error}") from None


def _described(entry: CacheEntry) -> str:
    first = entry.record["inputs"][0]
    return f"{entry.folder.name} ({first['name']}: {first['dtype']} {first['shape']})"
