"""Tests of HubSource's errors: one line that names the fault and says what to do."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from mimo_v2_flash.checkpoint.hub import WAITS, HubSource
from tests.support.hub_checkpoint import INDEX, RECIPE, write_hub_checkpoint
from tests.support.local_hub import (
    REPOSITORY,
    Forgetful,
    LocalHub,
    Manners,
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


def test_what_always_breaks_off_is_given_up_by_name(folder, visit):
    hub, source = visit(folder, Manners(cut=1.0), troubled=Forgetful()), HubSource(REPOSITORY)
    with pytest.raises(OSError, match=rf"^{REPOSITORY}: {SHARD}: the hub cannot be used: .*peer"):
        source.read(SHARD, 0, 1000)
    assert hub.ranges == len(WAITS) + 1


def test_what_is_always_busy_is_given_up(folder, visit):
    hub = visit(folder, Manners(busy=1.0), troubled=Forgetful())
    with pytest.raises(OSError, match=rf"^{REPOSITORY}: .*(429|503)"):
        HubSource(REPOSITORY)
    assert len(hub.requests) == len(WAITS) + 1


def test_a_hub_without_ranges_is_refused_before_its_files_are_read(folder, visit, tmp_path):
    shutil.copytree(folder, tmp_path / "large")
    with (tmp_path / "large" / SHARD).open("r+b") as file:
        file.truncate(60_000_000)
    hub, source = visit(tmp_path / "large", Manners(ranges=False)), HubSource(REPOSITORY)
    with pytest.raises(OSError, match=rf"^{REPOSITORY}: {SHARD}: .* does not serve ranges"):
        source.tensor_infos([EXPERT])
    assert hub.requests[-1].endswith(SHARD)
    assert hub.bytes_served < 60_000_000


def test_a_cache_that_cannot_be_written_is_named_and_not_the_network(folder, visit, tmp_path):
    (tmp_path / "home").touch()  # a file: nobody can make folders in it
    visit(folder)
    with pytest.raises(OSError, match=rf"^{REPOSITORY}: .*{tmp_path}/home.* HF_HOME: can it be"):
        HubSource(REPOSITORY)


REFUSED = {
    "no token": ({"manners": Manners(token="hf_right")}, (REPOSITORY,), "401"),
    "no such repository": ({}, ("XiaomiMiMo/MiMo-V3",), "404 .*Repository Not Found"),
    "no such revision": ({}, (REPOSITORY, "nowhere"), "404 .*Revision Not Found"),
}


@pytest.mark.parametrize(("options", "args", "message"), REFUSED.values(), ids=REFUSED)
def test_what_the_hub_refuses_is_one_line(folder, visit, options, args, message):
    hub = visit(folder, **options)
    with pytest.raises(OSError, match=rf"^{args[0]}: {message}.* HF_TOKEN right\?\)$") as refusal:
        HubSource(*args)
    assert "\n" not in str(refusal.value)
    assert len(hub.requests) == 1


def test_without_network_one_line_says_so_and_what_to_do(folder, visit, monkeypatch):
    visit(folder).__exit__()
    waits = never_waiting(monkeypatch)
    monkeypatch.setattr("mimo_v2_flash.checkpoint.hub.time", SimpleNamespace(sleep=waits.append))
    with pytest.raises(OSError, match=r"network there.* prepare_weights\.py --checkpoint FOLDER"):
        HubSource(REPOSITORY)
    assert waits == []


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("<html>", "no weight_map"),
        ("[]", "no weight_map"),
        ("{}", "no weight_map"),
        (
            '{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}',
            "no weight_map .*'w' is there more than once",
        ),
        ('{"weight_map": {"w": "../../other/x.safetensors"}}', "w is mapped to '../../other/x"),
        ('{"weight_map": {"w": "pytorch_model.bin"}}', "w is mapped to 'pytorch_model.bin'"),
        ('{"weight_map": {"w": 3}}', "w is mapped to 3"),
    ],
)
def test_a_damaged_index_is_refused_by_name(folder, visit, tmp_path, index, message):
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / INDEX).write_text(index)
    visit(tmp_path / "damaged")
    with pytest.raises(ValueError, match=rf"^{REPOSITORY}: {INDEX}: {message}"):
        HubSource(REPOSITORY)
