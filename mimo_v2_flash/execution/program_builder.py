"""Ahead-of-time compilation of programs into a compile cache, several at a time."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from .backend import MissingProgramError
from .compile_cache import CacheEntry, CompileCache
from .compiler import NeuronCompiler, compiler_arguments
from .registry import INSTALL

__all__ = ["JOBS", "ProgramBuilder"]

JOBS = 4
"""Compilers that run at one time; each takes several cores and some gigabytes."""


class ProgramBuilder:
    """A compile cache, and the compiler that fills it.

    Parameters
    ----------
    folder
        Folder of the compile cache; created if it does not exist.
    lnc
        Physical cores per logical core, 1 or 2.

    Raises
    ------
    ValueError
        If the folder is not a compile cache.
    ChildProcessError
        If the compiler does not print its version.

    Attributes
    ----------
    folder
        Folder of the compile cache.
    compiler
        The installed compiler, None if there is none.
    """

    def __init__(self, folder: Path, *, lnc: int) -> None:
        self.compiler = NeuronCompiler.installed()
        self._cache = CompileCache(folder, compiler_arguments(lnc=lnc))
        self.folder = self._cache.folder

    def find(self, module: Any) -> Path:
        """Return the path of a cached program's NEFF.

        Raises
        ------
        MissingProgramError
            If the program is not compiled, damaged or stale; the message names it.
        ValueError
            If its folder holds another program.
        """
        entry = self._cache.entry(module)
        if why := self._why_stale(entry):
            raise MissingProgramError(
                f"program {_describe(entry)} {why}, and compilation is disabled"
            )
        return entry.neff

    def compile(self, module: Any) -> Path:
        """Return the path of a program's NEFF; compile it if the cache has none of this compiler.

        Raises
        ------
        MissingProgramError
            If it must be compiled, and no compiler is installed.
        ChildProcessError
            If the compiler fails; the message has the end of its output, and the log's path.
        ValueError
            If the program's folder holds another program.
        """
        entry = self._cache.entry(module)
        if (why := self._why_stale(entry)) and self.compiler is None:
            raise MissingProgramError(
                f"program {_describe(entry)} {why}, and neuronx-cc is not installed: {INSTALL}"
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
        """Return the folders of programs, compiled `jobs` at a time.

        `modules` are keyed by titles for people. Without an installed compiler only the modules
        are written. `advance` is called with 1 after each program.

        Parameters
        ----------
        modules : mapping of str to module
            HLO modules by titles for people.
        jobs : int
            Number of compilers that run at a time.
        advance : callable
            Called with 1 after each program.

        Raises
        ------
        ChildProcessError
            If the compiler fails; the message has all failures. All other programs are compiled.
        ValueError
            If a program's folder holds another program.
        """
        entries = [self._cache.entry(module, title) for title, module in modules.items()]
        with ThreadPoolExecutor(jobs) as pool:
            builds = [pool.submit(self._build, entry) for entry in entries]
            for _ in as_completed(builds):
                advance(1)
        errors = [error for build in builds if (error := build.exception())]
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
            if not self._why_stale(entry):  # another process has compiled it in the meantime
                return
            self._cache.finish(entry, self._neff(entry), self._version)

    def _neff(self, entry: CacheEntry) -> bytes | None:
        if self.compiler is None:
            return None
        try:
            return self.compiler(entry.module, self._cache.arguments, entry.log)
        except ChildProcessError as error:
            raise ChildProcessError(f"program {_describe(entry)}: {error}") from None


def _describe(entry: CacheEntry) -> str:
    first = entry.record["inputs"][0]
    return f"{entry.folder.name} ({first['name']}: {first['dtype']} {first['shape']})"
