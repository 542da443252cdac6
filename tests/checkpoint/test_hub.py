"""Tests of HubSource: byte ranges, retries, and what is requested of the hub."""

import json
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from mimo_v2_flash.checkpoint import hub as module
from mimo_v2_flash.checkpoint.hub import IN_FLIGHT, HubSource
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.io_threads import parallel_map
from tests.support.hub_checkpoint import INDEX, RECIPE, write_hub_checkpoint
from tests.support.hub_handler import INFO
from tests.support.local_hub import (
    COMMIT,
    REPOSITORY,
    LocalHub,
    Manners,
    Range,
    never_waiting,
    visited,
)
from tests.support.tiny import tiny

SHARD = "model_1_linear_fc1.safetensors"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("hub")).folder


@pytest.fixture
def visit(monkeypatch, tmp_path):
    """Return a function that starts a hub for this process, without waits between retries."""
    never_waiting(monkeypatch)
    with ExitStack() as stack:
        yield lambda *options, **more: stack.enter_context(
            visited(LocalHub(*options, **more), monkeypatch, tmp_path / "home")
        )


def some_ranges(folder: Path, count: int) -> list[Range]:
    chance, ranges = Random(0), []
    for path in chance.choices(sorted(folder.glob("*.safetensors")), k=count):
        begin, end = sorted(chance.sample(range(path.stat().st_size + 1), 2))
        ranges.append(Range(path.name, begin, end))
    return ranges


def assert_right(folder: Path, source: HubSource, ranges: list[Range]) -> None:
    blocks = parallel_map(lambda wanted: source.read(*wanted), ranges, IN_FLIGHT)
    for (file, begin, end), data in zip(ranges, blocks, strict=True):
        assert data == (folder / file).read_bytes()[begin:end]


def test_ranges_are_the_files_bytes_over_connections_that_are_kept(folder, visit):
    hub, ranges = visit(folder), some_ranges(folder, 200)
    assert_right(folder, HubSource(REPOSITORY), ranges)
    assert Counter(hub.served) == Counter(ranges)
    assert hub.connections <= IN_FLIGHT + 1


def test_an_empty_range_is_not_asked_for(folder, visit):
    hub, source = visit(folder), HubSource(REPOSITORY)
    hub.reset()
    assert source.read(SHARD, 5, 5) == b""
    assert hub.requests == []


def test_tensors_are_where_the_same_folder_has_them_and_only_headers_are_read(folder, visit):
    hub, source, local = visit(folder), HubSource(REPOSITORY), FolderSource(folder)
    assert sorted(source.names()) == sorted(local.names())
    names = [name for name in source.names() if ".experts." in name]
    expected, actual = local.tensor_infos(names), source.tensor_infos(names)
    assert {name: info._replace(file="") for name, info in actual.items()} == {
        name: info._replace(file="") for name, info in expected.items()
    }
    assert {Path(info.file).name for info in expected.values()} == {r.file for r in hub.served}
    for file, begin, end in hub.served:
        length = int.from_bytes((folder / file).read_bytes()[:8], "little")
        assert (begin, end) in [(0, 8), (8, 8 + length)]
    assert set(Counter(hub.served).values()) == {1}


def test_metadata_is_asked_for_once_and_kept_at_home(folder, visit):
    hub = visit(folder)
    source = HubSource(REPOSITORY)
    assert set(Counter(hub.requests).values()) == {1}
    assert source.config.read_bytes() == (folder / "config.json").read_bytes()
    assert source.total_size == json.loads((folder / INDEX).read_text())["metadata"]["total_size"]
    hub.reset()
    assert HubSource(REPOSITORY, COMMIT).names() == source.names()
    assert hub.requests == [f"GET {INFO[1]}"]


def test_a_branch_becomes_its_commit(folder, visit):
    visit(folder)
    assert HubSource(REPOSITORY, "main").revision == COMMIT


@pytest.mark.parametrize("seed", range(3))
def test_what_breaks_off_or_is_busy_is_asked_for_again(folder, visit, monkeypatch, seed):
    waits = never_waiting(monkeypatch)
    hub, ranges = visit(folder, Manners(cut=0.5, busy=0.5, seed=seed)), some_ranges(folder, 60)
    assert_right(folder, HubSource(REPOSITORY), ranges)
    assert Counter(hub.served) == Counter(ranges)
    assert len(hub.requests) > 1.3 * len(ranges)
    assert set(waits) == {1.0}  # of Retry-After: 0


def test_all_metadata_may_be_busy_at_first(folder, visit):
    visit(folder, Manners(busy=1.0))
    assert HubSource(REPOSITORY).tensor_infos([EXPERT])[EXPERT].file == SHARD


@pytest.mark.parametrize(
    ("served", "data"), [("bytes 1-8/99", b"8 bytes."), ("bytes 0-7/99", b"7 bytes")]
)
def test_another_range_than_was_asked_for_is_not_taken(folder, visit, monkeypatch, served, data):
    visit(folder)
    source, responses = HubSource(REPOSITORY), [(served, data), ("bytes 0-7/99", b"8 others")]

    @contextmanager
    def response(*_, **__):
        served, data = responses.pop(0)
        yield SimpleNamespace(status_code=206, headers={"Content-Range": served}, read=lambda: data)

    monkeypatch.setattr(module, "http_stream_backoff", response)
    monkeypatch.setattr(module, "hf_raise_for_status", id)
    assert source.read(SHARD, 0, 8) == b"8 others"


@pytest.mark.parametrize("shown", ["environment", "home"])
def test_a_token_is_shown_to_the_hub_and_to_nobody_else(
    folder, visit, monkeypatch, tmp_path, shown
):
    hub = visit(folder, Manners(token="hf_right", elsewhere=True))
    if shown == "environment":
        monkeypatch.setenv("HF_TOKEN", "hf_right")
    else:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "token").write_text("hf_right\n")
    assert HubSource(REPOSITORY).tensor_infos([EXPERT])
    assert any("/elsewhere/" in request for request in hub.requests)
    assert hub.leaked_tokens == []
