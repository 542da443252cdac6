"""--mode download prints its sizes, fetches every range once, resumes, and runs the model."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

import run_example
from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.subset import keep_experts
from mimo_v2_flash.cli import prepare
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.model import MiMoV2FlashModel
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.local_hub import LocalHub, never_waiting, visited
from tests.support.reports import run_mode
from tests.support.tiny import tiny
from tests.support.tiny_text import write_json

PROMPT = [7, 1, 60, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("hub")).folder


@pytest.fixture
def hub(folder, monkeypatch, tmp_path):
    """Return the local hub that this process uses, without waits between retries."""
    never_waiting(monkeypatch)
    with visited(LocalHub(folder), monkeypatch, tmp_path / "home") as started:
        yield started


@pytest.fixture
def download(capsys, tmp_path, hub):
    """Return a function that runs the mode, checks its status and returns its output."""

    def run(*arguments: object, status: int = 0) -> str:
        options = ["--output", tmp_path / "output", "--max-new-tokens", 4, *arguments]
        prompt = ["--prompt-ids", *PROMPT]
        assert run_example.main(["--mode", "download", *map(str, options + prompt)]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


def data_ranges(hub: LocalHub) -> Counter:
    """Return how often each byte range was served, headers excluded."""
    served = Counter(hub.served)
    for file in {wanted.file for wanted in served}:
        length = int.from_bytes((hub.folder / file).read_bytes()[:8], "little")
        del served[file, 0, 8], served[file, 8, 8 + length]
    return served


def tokens_of(folder: Path, experts: list[int]) -> list[int]:
    config = MiMoConfig.from_pretrained(folder)
    model = MiMoV2FlashModel(*keep_experts(load_weights(folder, config), config, experts))
    return model.generate([PROMPT], max_new_tokens=4)[0]


@pytest.mark.parametrize("experts", [[0, 1, 3], [2]])
def test_the_prompt_runs_on_the_experts_that_were_fetched(folder, download, experts):
    stdout = download("--expert-subset", *experts)
    assert f"prompt {PROMPT}\ntokens {tokens_of(folder, experts)}\n" in stdout


def test_it_stops_at_an_end_token_of_generation_config_and_is_greedy(
    folder, capsys, monkeypatch, tmp_path
):
    free = tokens_of(folder, [0, 1, 3])
    copy = Path(shutil.copytree(folder, tmp_path / "hub"))
    content = {"eos_token_id": free[1], "do_sample": True, "temperature": 9.0}
    write_json(copy / "generation_config.json", content)
    never_waiting(monkeypatch)
    options = ("--output", tmp_path / "output", "--max-new-tokens", 4, "--expert-subset", 0, 1, 3)
    with visited(LocalHub(copy), monkeypatch, tmp_path / "home"):
        out, _ = run_mode(capsys, "download", *options, "--prompt-ids", *PROMPT)
    assert f"tokens {free[: free.index(free[1]) + 1]}\n" in out


def test_before_it_fetches_it_says_how_much_and_that_a_part_writes_nonsense(
    download, hub, monkeypatch, capsys
):
    def stop(_: object) -> None:
        raise OSError(capsys.readouterr().out)

    monkeypatch.setattr(prepare, "make", stop)
    message = download("--expert-subset", 0, status=2)
    assert (
        "5.4 MB of 5.7 MB to fetch: 1 of 5 experts A part of the model writes nonsense" in message
    )
    assert data_ranges(hub).total() == 0


def test_the_whole_model_is_not_said_to_write_nonsense(download):
    assert "nonsense" not in download()


def test_fewer_layers_in_another_dtype_run_too(download, tmp_path):
    assert "nonsense" in download("--num-layers", 2, "--dtype", "float32")
    assert MiMoConfig.from_pretrained(tmp_path / "output").num_hidden_layers == 2


def test_what_is_needed_is_fetched_once(download, hub):
    download("--expert-subset", "0-2")
    assert set(data_ranges(hub).values()) == {1}


def test_again_it_fetches_headers_and_runs(download, hub):
    first = download("--expert-subset", "0-2")
    hub.reset()
    again = download("--expert-subset", "2", "0-1")
    assert data_ranges(hub).total() == 0
    assert "complete already" in again
    assert first.splitlines()[-2:] == again.splitlines()[-2:]


def test_interrupted_it_goes_on_by_itself(download, hub, tmp_path):
    def break_off(count: int) -> None:
        if count > 60:
            raise ConnectionError

    hub.on_range = break_off
    assert "the hub cannot be used" in download(status=2)
    hub.on_range = id
    assert "complete\n" in download()
    assert list(tmp_path.glob("output/*.partial")) == []


def test_another_checkpoint_there_is_refused_before_anything_is_fetched(download, hub, tmp_path):
    download("--expert-subset", "0-2")
    hub.reset()
    message = r"output holds weights of experts \[0, 1, 2\], requested is \[3\]"
    assert re.search(message, download("--expert-subset", 3, status=2))
    assert data_ranges(hub).total() == 0


def test_a_full_disk_is_refused_before_anything_is_fetched(download, hub, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
    assert "1,000,000 are free" in download(status=2)
    assert data_ranges(hub).total() == 0
