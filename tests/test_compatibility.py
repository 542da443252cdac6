"""Files of the last release are read: prepared weights, shards, a trace, compiled programs, JSON.

`tests/data/format_2` was written by the release before the names of parallelism and programs
changed: a checkpoint of two layers, four of its five experts, and what the commands said of it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import run_example
from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.checkpoint.prepared import PreparedMetadata
from mimo_v2_flash.checkpoint.source import open_checkpoint
from mimo_v2_flash.cli.commands import COMMANDS
from mimo_v2_flash.cli.parser import CommandParser
from mimo_v2_flash.execution.compile_cache import CompileCache
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.tracing.trace_file import open_trace
from tests.support.agreement import assert_agrees

DATA = Path(__file__).parent / "data" / "format_2"
PREPARED, SHARDS, TRACE = DATA / "prepared", DATA / "shards", DATA / "trace.safetensors"
OPTIONS: dict[str, list[str]] = json.loads((DATA / "options.json").read_text())
RENAMED = run_example.RENAMED
COST = ("--mode", "cost", "--batch-size", "5", "--context", "300", "--chunk", "16")
COST = (*COST, "--layers-per-program", "1")  # as the last release had them


@pytest.fixture(scope="module")
def trace() -> dict[str, np.ndarray]:
    """Return the tokens of the trace and the logits that the last release gave them."""
    with open_trace(TRACE) as file:
        return {name: file[name] for name in ("tokens", "logits")}


def command(*arguments: Any) -> int:
    return run_example.main([str(argument) for argument in arguments])


def test_prepared_weights_are_the_same_model(trace):
    config = MiMoConfig.from_pretrained(PREPARED)
    model = MiMoV2FlashModel(load_weights(PREPARED, config), config)
    assert_agrees(model.forward([trace["tokens"]])[0], trace["logits"])


def test_shards_are_the_same_model(trace):
    config, group = MiMoConfig.from_pretrained(SHARDS), ThreadGroup(2)
    plan = ParallelConfig(expert_parallel_size=2, data_parallel_size=2)

    def of_rank(rank: int) -> np.ndarray:
        weights = load_weights(SHARDS, config, share=plan.shard_spec(rank))
        model = MiMoV2FlashModel(weights, config, group=group, plan=plan)
        return model.forward([trace["tokens"]])[0]

    for logits_TV in group.run(of_rank):
        assert_agrees(logits_TV, trace["logits"])


@pytest.mark.parametrize("folder", [PREPARED, *sorted(SHARDS.glob("rank-*"))], ids=lambda p: p.name)
def test_metadata_keep_their_keys(folder):
    ((_, metadata),) = open_checkpoint(folder).metadata()
    prepared = PreparedMetadata.of_metadata(metadata)
    assert prepared is not None
    assert prepared.to_metadata() == metadata


def test_a_trace_is_compared_with_a_new_one(tmp_path, trace, capsys):
    new = tmp_path / "trace.safetensors"
    assert (
        command(
            "--mode", "trace", "--model", PREPARED, "--output", new, "--tokens", *trace["tokens"]
        )
        == 0
    )
    assert command("--mode", "compare", TRACE, new, "--tolerance", 1e-5) == 0
    assert "only in" not in capsys.readouterr().out


def test_a_folder_of_programs_is_opened_and_kept(tmp_path):
    folder = Path(shutil.copytree(DATA / "compile_cache", tmp_path / "programs"))
    manifest = json.loads((folder / "manifest.json").read_text())
    CompileCache(folder, ())
    assert json.loads((folder / "manifest.json").read_text()) == manifest


@pytest.mark.nkipy
def test_a_program_of_the_folder_is_the_one_that_is_looked_for():
    tracing = pytest.importorskip("mimo_v2_flash.execution.tracing", reason="nkipy (README)")
    (file,) = DATA.glob("compile_cache/*/program.hlo.pb")
    record = json.loads(file.with_name("record.json").read_text())

    def double(x_BT: Any) -> Any:
        return x_BT + x_BT

    proto = type(tracing.trace(double, {"x_BT": np.ones((1, 1), np.float32)}).module)
    cache = CompileCache(DATA / "compile_cache", tuple(record["arguments"]))
    entry = cache.entry(proto.FromString(file.read_bytes()))
    assert entry.folder == file.parent
    assert entry.record.items() <= record.items()
    assert cache.why_stale(entry, compiler=None) == "is not compiled"


@pytest.mark.parametrize(("mode", "options"), OPTIONS.items(), ids=OPTIONS)
def test_every_option_keeps_its_spelling(mode, options):
    name = {"prepare_weights": "prepare", **RENAMED}.get(mode, mode)
    parser = CommandParser(command=COMMANDS[name]).load()
    assert set(options) <= {name for action in parser._actions for name in action.option_strings}


def test_plan_writes_the_same_json(tmp_path):
    file, words = tmp_path / "plan.json", ("--expert-parallel", "5", "--context", "64")
    assert command("--mode", "plan", "--model", PREPARED, *words, "--json", file) == 0
    report, expected = (json.loads(path.read_text()) for path in (file, DATA / "plan.json"))
    for device in report["devices"]:  # now with MTP heads
        device["total"] -= device["weights"].pop("mtp")
    assert (report["load"].pop("mtp_heads"), report["load"].pop("draft_tokens")) == (3, 0)
    assert report == expected


@pytest.mark.nkipy
@pytest.mark.parametrize("mode", ["cost", "programs"])
def test_cost_writes_the_same_json_by_either_name(tmp_path, mode):
    pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
    file, words = tmp_path / "cost.json", [mode if word == "cost" else word for word in COST]
    assert command(*words, "--model", PREPARED, "--expert-parallel", 5, "--json", file) == 0
    report, expected = (json.loads(path.read_text()) for path in (file, DATA / "programs.json"))
    for name, program in expected["programs"].items():  # the same work in fewer instructions
        count = report["programs"][name].pop("instructions")
        assert 0 < count <= program.pop("instructions")
    assert kept(report, expected) == expected


def kept(report: Any, expected: Any) -> Any:
    """Return what a report has of the keys of the last release."""
    if isinstance(expected, dict):
        return {key: kept(report[key], value) for key, value in expected.items()}
    if isinstance(expected, list):
        return [kept(*pair) for pair in zip(report, expected, strict=True)]
    return report
