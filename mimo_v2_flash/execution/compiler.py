"""neuronx-cc: from the module of a program to its NEFF, which the Neuron runtime loads.

Source: nkipy, `core/compile.py`, for the arguments; AWS Neuron documentation, compiler reference,
for `--auto-cast` and `--lnc`, which must be the runtime's NEURON_LOGICAL_NC_CONFIG.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["INSTALL", "NeuronCompiler", "compiler_arguments"]

COMMAND = "neuronx-cc"
INSTALL = "https://awsdocs-neuron.readthedocs-hosted.com/en/latest/setup says how to install it"
SHOWN = 3  # lines of an error


@dataclass(frozen=True)
class NeuronCompiler:
    """neuronx-cc as it is installed.

    Attributes
    ----------
    command
        Its path.
    version
        As it says itself.
    """

    command: str
    version: str

    @classmethod
    def installed(cls) -> "NeuronCompiler | None":
        """Return the one on the path, None if there is none.

        Raises
        ------
        ChildProcessError
            If it does not say its version.
        """
        if (command := shutil.which(COMMAND)) is None:
            return None
        done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
        if found := re.search(r"version (\S+)", done.stdout):
            return cls(command, found[1])
        raise ChildProcessError(
            f"{command} --version says no version (exit status {done.returncode}): "
            f"{_end(done.stdout + done.stderr)}"
        )

    def __call__(self, program: Path, arguments: tuple[str, ...], log: Path) -> bytes:
        """Return the NEFF of the module in the file `program`; what the compiler says is in `log`.

        Raises
        ------
        ChildProcessError
            If it fails; the message has the end of what it said, and the log's path.
        """
        with TemporaryDirectory(prefix=f"{COMMAND}-") as folder:
            neff = Path(folder) / "program.neff"
            command = [self.command, "compile", "--framework", "XLA", str(program.resolve())]
            command += [*arguments, f"--output={neff.name}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
            log.write_text(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
            if done.returncode == 0 and neff.is_file():
                return neff.read_bytes()
        said = _end(done.stderr or done.stdout)
        raise ChildProcessError(
            f"{COMMAND} {self.version}, exit status {done.returncode}: {said} (log: {log})"
        )


def compiler_arguments(*, lnc: int, target: str = "trn2") -> tuple[str, ...]:
    """Return the arguments of a program for logical cores of `lnc` physical ones.

    Casts are those of the program: the compiler adds none.
    """
    return (
        *("--pipeline", "compile", "SaveTemps"),
        *("--target", target),
        *("--lnc", str(lnc)),
        "--internal-tensorizer-opt-level=2",
        "--auto-cast=none",
    )


def _end(said: str) -> str:
    return " | ".join(line.strip() for line in said.strip().splitlines()[-SHOWN:]) or "no word"
