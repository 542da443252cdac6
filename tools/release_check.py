"""Check of a release: sdist and wheel are built, and the wheel works in an environment of its own.

Installed in a folder that is no checkout, it generates, chats, serves, answers Python and has
types, without a network. With --short the environment sees this one's libraries, and nothing is
compiled: the package is what is checked.

python -m tools.release_check [--short]
"""

import json
import os
import re
import signal
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import ProxyHandler, Request, build_opener

from mimo_v2_flash import __version__

__all__ = ["CHECKS", "Installation", "main"]

ROOT = Path(__file__).parents[1]
OFFLINE = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://[::1]:9"),
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": "",
    "NO_COLOR": "1",
}
NOT_COMPILED = {"NUMBA_DISABLE_JIT": "1"}
SMOKE = """
from mimo_v2_flash import example_folder, load_model

tokens = load_model(example_folder()).generate([[1, 45, 300]], max_new_tokens=4, temperature=0)
print(tokens[0])
"""
TYPED = """
from mimo_v2_flash import MiMoV2FlashModel, example_folder, load_model

model: MiMoV2FlashModel = load_model(example_folder())
wrong: int = load_model(example_folder())
"""
SECONDS = 300


class Installation:
    """The wheel in a virtual environment, and a folder to work in that is no checkout.

    Parameters
    ----------
    folder
        An empty folder.
    wheel
        The wheel.
    is_short
        Whether libraries are this environment's, instead of fetched ones.
    """

    def __init__(self, folder: Path, wheel: Path, is_short: bool) -> None:
        self.folder, self.bin, self.env = folder, folder / "env" / "bin", dict(os.environ)
        venv.create(folder / "env", with_pip=True)
        if is_short:
            (site,) = (folder / "env").glob("lib/python*/site-packages")
            libraries = [path for path in sys.path if path.endswith("-packages")]
            (site / "libraries.pth").write_text("\n".join(libraries))
        what = ["--no-deps", str(wheel)] if is_short else [f"{wheel}[chat,serve]"]
        self.python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)
        self.env |= OFFLINE | (NOT_COMPILED if is_short else {})

    def python(self, *arguments: str, text: str = "") -> str:
        """Return what the environment's Python prints; its errors are shown, and end the check."""
        return self._output([str(self.bin / "python"), *arguments], text)

    def mimo(self, *arguments: str, text: str = "") -> str:
        """Return what `mimo` writes to standard output."""
        return self._output([str(self.bin / "mimo"), *arguments], text)

    def _output(self, command: Sequence[str], text: str) -> str:
        done = subprocess.run(
            command, input=text, stdout=subprocess.PIPE, text=True, check=True, env=self.env,
            cwd=self.folder, timeout=SECONDS,
        )  # fmt: skip
        return done.stdout


def check_version(installed: Installation) -> None:
    """Assert that the version is that of the source, and that the package is the wheel's."""
    assert installed.mimo("--version") == f"mimo-v2-flash {__version__}\n"
    place = installed.python("-c", "import mimo_v2_flash; print(mimo_v2_flash.__file__)")
    assert Path(place).is_relative_to(installed.folder.resolve()), place


def check_demo(installed: Installation) -> None:
    """Assert that the demo writes, and that every kernel passes."""
    numbers = json.loads(installed.mimo("demo", "--seed", "0", "--json"))
    assert len(numbers["generate"]["new_tokens"]) > 0
    assert numbers["test"]["passed"] == numbers["test"]["checks"] > 0


def check_chat(installed: Installation) -> None:
    """Assert that a message through a pipe is answered."""
    answer = installed.mimo("run", "--max-new-tokens", "8", "--seed", "0", text="What is a list?\n")
    assert answer.strip()


def check_server(installed: Installation) -> None:
    """Assert that the server answers a request and the chat page, and ends when it is told to."""
    command = [str(installed.bin / "mimo"), "serve", "--port", "0", "--max-length", "256"]
    server = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=installed.env, cwd=installed.folder
    )
    try:
        assert server.stderr is not None
        address = next(filter(None, (re.search(r"http://\S+(?=/v1)", x) for x in server.stderr)))[0]
        body = json.dumps({"model": "mimo-tiny", "prompt": "A list", "max_tokens": 4}).encode()
        request = Request(f"{address}/v1/completions", body, {"content-type": "application/json"})
        direct = build_opener(ProxyHandler({}))
        answer = json.load(direct.open(request, timeout=SECONDS))
        assert answer["usage"]["completion_tokens"] == 4
        assert b"<html" in direct.open(address, timeout=SECONDS).read()
        server.send_signal(signal.SIGTERM)
        assert server.wait(SECONDS) == 0
    finally:
        server.kill()


def check_python(installed: Installation) -> None:
    """Assert that a model generates from Python."""
    assert len(json.loads(installed.python("-c", SMOKE))) == 4


def check_types(installed: Installation) -> None:
    """Assert that mypy sees the package's types: one line is right, and one is wrong."""
    (installed.folder / "typed.py").write_text(TYPED)
    command = ["mypy", "--strict", "--python-executable", str(installed.bin / "python"), "typed.py"]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False,
        cwd=installed.folder, env=installed.env, timeout=SECONDS,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("typed.py")]
    assert [line.split()[0] for line in lines] == ["typed.py:5:"], done.stdout + done.stderr


CHECKS: tuple[Callable[[Installation], None], ...] = (
    *(check_version, check_demo, check_chat, check_server, check_python, check_types),
)


def main(arguments: Sequence[str]) -> int:
    """Build, install and check; the first failure is an exception."""
    with TemporaryDirectory() as temporary:
        dist = Path(temporary, "dist")
        subprocess.run(  # the wheel is built from the sdist
            [sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (wheel,) = dist.glob("*.whl")
        place = Path(temporary, "work")
        place.mkdir()
        installed = Installation(place, wheel, "--short" in arguments)
        for check in CHECKS:
            check(installed)
            print(f"{check.__name__.removeprefix('check_')}: ok", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
