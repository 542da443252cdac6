"""The whole download, in processes of its own: few bytes, cut, refused, killed, and the same."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.local_hub import REPOSITORY, LocalHub, Manners
from tests.support.tiny import tiny

ROOT = Path(__file__).parents[1]
SUBSET = ("--expert-subset", "0", "3-4")
FINISHED = "mimo_weights.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("hub")).folder


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory) -> bytes:
    """Return what is prepared of the same checkpoint on disk: its tensors' bytes."""
    output = tmp_path_factory.mktemp("prepared")
    command = [sys.executable, "prepare_weights.py", "--checkpoint", folder, "--output", output]
    subprocess.run([*command, *SUBSET], check=True, capture_output=True, cwd=ROOT)
    return data_of(output)


def data_of(output: Path) -> bytes:
    """Return a prepared file without its header, which says where it came from."""
    content = (output / FINISHED).read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def headers_of(folder: Path) -> int:
    """Return the bytes of all shards' headers."""
    shards = folder.glob("*.safetensors")
    return sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in shards)


def start(hub: LocalHub, tmp_path: Path, **more: str) -> subprocess.Popen:
    command = [sys.executable, "run_example.py", "--mode", "download", "--model", REPOSITORY]
    return subprocess.Popen(
        [*command, "--output", str(tmp_path / "out"), "--max-new-tokens", "2", *SUBSET],
        env=hub.environment(tmp_path / "home", **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    said, complained = process.communicate(timeout=120)
    return process.returncode, said, complained


def test_only_the_bytes_that_are_needed_are_served(folder, expected, tmp_path):
    with LocalHub(folder) as hub:
        status, said, complained = finished(start(hub, tmp_path))
        assert status == 0, complained
        assert "3 of 5 experts" in said
        index = (folder / "model.safetensors.index.json").stat().st_size
        described = index + (folder / "config.json").stat().st_size + 4096
        assert hub.bytes_served <= 1.05 * len(expected) + headers_of(folder) + described
        assert len(hub.served) == len(set(hub.served))
    assert data_of(tmp_path / "out") == expected


def test_cuts_and_refusals_change_nothing(folder, expected, tmp_path):
    with LocalHub(folder, Manners(cut=0.1, busy=0.05, seed=3)) as hub:
        status, _, complained = finished(start(hub, tmp_path))
        assert status == 0, complained
        assert len(hub.served) == len(set(hub.served))
    assert data_of(tmp_path / "out") == expected


def test_a_killed_download_goes_on_without_fetching_twice(folder, expected, tmp_path):
    journal = tmp_path / "out" / "mimo_weights.journal"
    stored: set[str] = set()
    with LocalHub(folder) as hub:
        for lines in (5, 20):
            process = start(hub, tmp_path)
            while process.poll() is None:
                done = journal.read_text().splitlines() if journal.exists() else []
                if len(done) > lines:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.001)
            process.communicate()
            if journal.exists():
                stored |= set(journal.read_text().splitlines()[1:])
                assert not (tmp_path / "out" / FINISHED).exists()
        hub.forget()
        status, _, complained = finished(start(hub, tmp_path))
        assert status == 0, complained
        assert stored
        on_disk = sum(int(line.rsplit(" ", 1)[1]) for line in stored)  # bytes of each piece
        again = sum(wanted.end - wanted.begin for wanted in hub.served)
        assert again <= len(expected) - on_disk + headers_of(folder)
    assert data_of(tmp_path / "out") == expected


def test_without_a_hub_it_says_so_in_one_line(folder, tmp_path):
    hub = LocalHub(folder)
    with hub:
        pass  # its address is free again
    status, _, complained = finished(start(hub, tmp_path))
    assert status == 2
    assert "Traceback" not in complained
    assert "prepare_weights.py --checkpoint FOLDER" in complained.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_token_is_shown_and_its_lack_is_explained(folder, tmp_path):
    with LocalHub(folder, Manners(token="secret")) as hub:
        status, _, complained = finished(start(hub, tmp_path))
        assert status == 2
        assert "HF_TOKEN" in complained
        status, _, complained = finished(start(hub, tmp_path, HF_TOKEN="secret"))
        assert status == 0, complained
