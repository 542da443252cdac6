"""End-to-end download in subprocesses: bytes fetched, retries, resume after a kill, errors."""

import ast
import json
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest

from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.hub import IN_FLIGHT
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.checkpoint.subset import keep_experts
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import ConversionJob, plan_conversion_job
from mimo_v2_flash.convert.store import JOURNAL
from mimo_v2_flash.model import MiMoV2FlashModel
from tests.support.hub_checkpoint import INDEX, RECIPE, write_hub_checkpoint
from tests.support.local_hub import LocalHub, Manners, Range
from tests.support.tiny import built

ROOT = Path(__file__).parents[1]
FILE = "mimo_weights.safetensors"
EIGHT = tuple(range(8))
SUBSET = ("--expert-subset", *map(str, EIGHT))
DOWNLOAD = ("run_example.py", "--mode", "download", *SUBSET)
Process = subprocess.Popen[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a checkpoint of 256 experts in each layer, as the real one has."""
    model = built(replace(RECIPE, experts=256))
    return write_hub_checkpoint(model, tmp_path_factory.mktemp("hub")).folder


@pytest.fixture(scope="module")
def job(folder) -> ConversionJob:
    """Return the conversion job, planned from the same checkpoint on disk."""
    config = MiMoConfig.from_pretrained(folder)
    return plan_conversion_job(FolderSource(folder), config, Path(), Encoding("fp8", "cpu"), EIGHT)


@pytest.fixture(scope="module")
def at_once(folder, tmp_path_factory) -> dict[str, bytes]:
    """Return the files of a download without faults."""
    home = tmp_path_factory.mktemp("home")
    with LocalHub(folder) as hub:
        finish(start(hub, home))
    return contents(home / "output")


def start(hub: LocalHub, home: Path, *arguments: str, **environment: str) -> Process:
    command = [sys.executable, *(arguments or DOWNLOAD), "--output", str(home / "output")]
    options = {"cwd": ROOT, "env": hub.environment(home, **environment), "text": True}
    return subprocess.Popen(command, **options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: Process, status: int = 0) -> str:
    """Wait for exit status `status`; return stdout, or stderr if `status` is not 0."""
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert "Traceback" not in stderr
    return stderr if status else stdout


def kill_at(process: Process, last: int, count: int) -> None:
    if count >= last:
        process.kill()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def header(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def data_of(files: dict[str, bytes]) -> bytes:
    """Return the bytes of a checkpoint's tensors, without the header, which names their source."""
    return files[FILE][header(files[FILE]) :]


def data_ranges(hub: LocalHub) -> list[Range]:
    """Return the ranges of tensor data that the hub served, without headers."""
    return [r for r in hub.served if r.begin >= header((hub.folder / r.file).read_bytes())]


def stored_ranges(job: ConversionJob, output: Path) -> set[Range]:
    """Return the ranges that are on disk according to the journal."""
    lines = (output / JOURNAL).read_text().split("\n")[1:-1]
    keys = {json.loads(line[9:])[0].rpartition(" ")[0] for line in lines}
    sources = [info for task in job.plan.tasks if task.key in keys for info in task.sources]
    return {Range(Path(info.file).name, info.begin, info.end) for info in sources}


def test_eight_experts_of_256_are_few_bytes_fetched_once_and_a_prompt_runs(folder, job, tmp_path):
    with LocalHub(folder, Manners(token="hf_secret", elsewhere=True)) as hub:
        stdout = finish(start(hub, tmp_path, HF_TOKEN="hf_secret"))
    assert re.match(r"6\.1 MB of 20\.7 MB to fetch: 8 of 256 experts\nA part .* nonsense", stdout)
    files = {wanted.file for wanted in hub.served}
    headers = sum(header((folder / file).read_bytes()) for file in files)
    metadata = sum((folder / name).stat().st_size for name in ("config.json", INDEX)) + 1000
    assert hub.bytes_served <= 1.05 * job.bytes_to_read + headers + metadata
    assert len(hub.served) == len(set(hub.served))
    assert hub.leaked_tokens == []
    config = MiMoConfig.from_pretrained(folder)
    part = MiMoV2FlashModel(*keep_experts(load_weights(folder, config), config, EIGHT))
    tokens = ast.literal_eval(re.search(r"tokens (.*)", stdout)[1])
    assert tokens == part.generate([[1, 2, 3, 4, 5]], max_new_tokens=8)[0]


def test_it_is_what_prepare_weights_makes_of_the_same_folder(folder, at_once, tmp_path):
    with LocalHub(folder) as hub:
        finish(start(hub, tmp_path, "prepare_weights.py", "--checkpoint", str(folder), *SUBSET))
    assert hub.requests == []
    files = contents(tmp_path / "output")
    assert (files.keys(), files["config.json"]) == (at_once.keys(), at_once["config.json"])
    assert data_of(files) == data_of(at_once)


def test_cuts_and_refusals_change_nothing(folder, at_once, tmp_path):
    with LocalHub(folder, Manners(cut=0.1, busy=0.05)) as hub:
        finish(start(hub, tmp_path))
    assert len(hub.requests) > len(hub.served) + 10
    assert len(hub.served) == len(set(hub.served))
    assert contents(tmp_path / "output") == at_once


def test_killed_again_and_again_it_goes_on_and_fetches_nothing_twice(
    folder, job, at_once, tmp_path
):
    chance, output, stored = Random(0), tmp_path / "output", set()
    with LocalHub(folder, Manners(cut=0.02)) as hub:
        for _ in range(3):
            hub.reset()
            process, last = start(hub, tmp_path), chance.randrange(40, 60)  # 18 are headers
            hub.on_range = partial(kill_at, process, last)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
            assert stored.isdisjoint(data_ranges(hub))
            assert stored <= (stored := stored_ranges(job, output))
            assert {path.suffix for path in output.iterdir()} == {".partial", ".journal", ".lock"}
        hub.on_range = id
        hub.reset()
        finish(start(hub, tmp_path))
        assert stored.isdisjoint(data_ranges(hub))
    assert len(stored) > 20
    assert contents(output) == at_once


def test_ctrl_c_ends_it_at_once_and_in_silence_even_when_the_hub_hangs(folder, at_once, tmp_path):
    over = threading.Event()
    with LocalHub(folder) as hub:
        # A child inherits an ignored SIGINT, which is what tests in the background have.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = start(hub, tmp_path)
        signal.signal(signal.SIGINT, before)
        interrupt = partial(process.send_signal, signal.SIGINT)
        hub.on_range = lambda count: count >= 40 and (count == 40 and interrupt(), over.wait())
        assert finish(process, status=130) == ""
        assert hub.ranges < 40 + IN_FLIGHT  # no hanging range has timed out and been repeated
        hub.on_range = id
        over.set()
        finish(start(hub, tmp_path))
    assert contents(tmp_path / "output") == at_once


@pytest.mark.parametrize("script", [DOWNLOAD, ("prepare_weights.py", "--model", "a/b")])
def test_without_network_one_line_says_so_and_what_to_do(folder, tmp_path, script):
    with LocalHub(folder) as hub:
        pass  # the port is closed now
    stderr = finish(start(hub, tmp_path, *script), status=2)
    assert stderr.count("\n") == 1
    assert re.match(r"\w+\.py: \S+: .*is the network there.* --checkpoint FOLDER\)$", stderr)
    assert not (tmp_path / "output").exists()


REFUSALS = {
    "token": (Manners(token="hf_secret"), DOWNLOAD, "401"),
    "repository": (Manners(), (*DOWNLOAD, "--model", "XiaomiMiMo/MiMo-V3"), "404"),
    "ranges": (Manners(ranges=False), DOWNLOAD, "does not serve ranges of files"),
}


@pytest.mark.parametrize(("manners", "script", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_the_hub_refuses_is_one_line(folder, tmp_path, manners, script, message):
    with LocalHub(folder, manners) as hub:
        line = finish(start(hub, tmp_path, *script), status=2).splitlines()[-1]
    assert re.match(rf"run_example\.py: XiaomiMiMo/MiMo-V\S+: .*{message}", line)
    assert not (tmp_path / "output").exists()
