"""The neuronx-cc compiler: from a program's HLO module to the NEFF that the Neuron runtime loads.

Source: nkipy, `core/compile.py`, for the arguments; AWS Neuron documentation, compiler reference,
for `--auto-cast` and `--lnc`, which must be the runtime's NEURON_LOGICAL_NC_CONFIG.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["NeuronCompiler", "compiler_arguments"]

COMMAND = "neuronx-cc"
ERROR_LINES = 3
"""How many of the last lines of the compiler's output an error message shows."""


@dataclass(frozen=True)
class NeuronCompiler:
    """An installed neuronx-cc.

    Attributes
    ----------
    command
        Path of the executable.
    version
        Version that `--version` prints.
    """

    command: str
    version: str

    @classmethod
    def installed(cls) -> "NeuronCompiler | None":
        """Return the compiler on the PATH, None if there is none.

        Raises
        ------
        ChildProcessError
            If it does not print its version.
        """
        if (command := shutil.which(COMMAND)) is None:
            return None
        process = subprocess.run(
            [command, "--version"], capture_output=True, text=True, check=False
        )
        if match := re.search(r"version (\S+)", process.stdout):
            return cls(command, match[1])
        raise ChildProcessError(
            f"{command} --version prints no version (exit status {process.returncode}): "
            f"{_last_lines(process.stdout + process.stderr)}"
        )

    def __call__(self, program: Path, arguments: tuple[str, ...], log: Path) -> bytes:
        """Return the NEFF of the module in the file `program`; write the output to `log`.

        Raises
        ------
        ChildProcessError
            If it fails; the message has the last lines of its output, and the log's path.
        """
        with TemporaryDirectory(prefix=f"{COMMAND}-") as folder:
            neff = Path(folder) / "program.neff"
            command = [
                *(self.command, "compile", "--framework", "XLA", str(program.resolve())),
                *arguments,
                f"--output={neff.name}",
            ]
            process = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd=folder
            )
            log.write_text(f"{' '.join(command)}\n{process.stdout}{process.stderr}")
            if process.returncode == 0 and neff.is_file():
                return neff.read_bytes()
        output = _last_lines(process.stderr or process.stdout)
        raise ChildProcessError(
            f"{COMMAND} {self.version}, exit status {process.returncode}: {output} (log: {log})"
        )


def compiler_arguments(*, lnc: int, target: str = "trn2") -> tuple[str, ...]:
    """Return the compiler's arguments for logical cores of `lnc` physical ones.

    The compiler adds no casts to those of the program.
    """
    return (
        *("--pipeline", "compile", "SaveTemps"),
        *("--target", target),
        *("--lnc", str(lnc)),
        "--internal-tensorizer-opt-level=2",
        "--auto-cast=none",
    )


def _last_lines(output: str) -> str:
    lines = output.strip().splitlines()[-ERROR_LINES:]
    return " | ".join(line.strip() for line in lines) or "no output"
