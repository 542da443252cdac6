"""prepare_weights.py writes a shard for every rank, and refuses an impossible split."""

import re
import shutil
from pathlib import Path

import pytest

import prepare_weights
from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import all_shard_specs
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.tiny import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("hub")).folder


@pytest.fixture
def prepared(folder, tmp_path, capsys):
    """Return a function that runs the script, checks its status and returns its output."""

    def prepare(*split: object, status: int = 0) -> str:
        args = "--checkpoint", folder, "--output", tmp_path / "output", *split
        assert prepare_weights.main(list(map(str, args))) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return prepare


def test_ranks_have_a_shard_each(prepared, tmp_path):
    output = tmp_path / "output"
    assert re.search(r"shards\W+5\b", prepared("--expert-parallel", 5))
    config = MiMoConfig.from_pretrained(output)
    for rank, shard_spec in enumerate(all_shard_specs(5, 1)):
        assert (output / f"rank-{rank:05}-of-00005" / "mimo_weights.safetensors").is_file()
        weights = load_weights(output, config, share=shard_spec)
        assert len(weights.layers[1].feed_forward.experts) == 1
    assert "complete already" in prepared("--expert-parallel", 5)


def test_shards_and_a_whole_checkpoint_do_not_mix(prepared, tmp_path):
    prepared("--expert-parallel", 1)
    assert "holds config.json of another checkpoint" in prepared("--expert-parallel", 5, status=2)
    shutil.rmtree(tmp_path / "output")
    prepared("--expert-parallel", 5)
    assert "holds config.json of another checkpoint" in prepared(status=2)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (("--expert-parallel", 3), "--expert-parallel 3: allowed is a divisor of 5 experts"),
        (("--expert-parallel", 10**9), "--expert-parallel 1000000000: allowed is a divisor of 5"),
        (("--expert-parallel", 10**9, "--num-layers", 1), "--expert-parallel 1000000000: allowed"),
        (("--expert-parallel", 0), "argument --expert-parallel: '0' is not an integer above 0"),
        (("--tensor-parallel", 0), "argument --tensor-parallel: '0' is not an integer above 0"),
        (
            ("--expert-parallel", 1, "--tensor-parallel", 2),
            "gate_proj.weight: shards of 132 rows split FP8 blocks of 128",
        ),
    ],
)
def test_an_impossible_split_is_refused(prepared, tmp_path, split, message):
    assert message in prepared(*split, status=2)
    assert not (tmp_path / "output").exists()
