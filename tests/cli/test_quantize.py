"""`mimo quantize`: a folder that loads as any, errors weight by weight, and refusals."""

import json

import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig, load_model, load_weights
from mimo_v2_flash.checkpoint.params import nbytes
from mimo_v2_flash.checkpoint.prepared import PreparedMetadata
from mimo_v2_flash.checkpoint.source import open_checkpoint
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.parallel_config import all_shard_specs
from tests.support.shipped import FOLDER

TOPOLOGY = "0-3: {isq: 8}\n3-6: {isq: }\n"
TOKENS = [list(range(5, 25))]


@pytest.fixture(scope="module")
def topology(tmp_path_factory):
    file = tmp_path_factory.mktemp("topology") / "t.yml"
    file.write_text(TOPOLOGY)
    return file


@pytest.fixture(scope="module")
def written(tmp_path_factory, topology):
    """Return the folder of a quantized mimo-tiny, and the numbers of the command."""
    folder = tmp_path_factory.mktemp("written")
    options = ["--isq", "8", "--topology", str(topology), "--json", str(folder / "n.json")]
    assert main(["quantize", str(FOLDER), "-o", str(folder / "out"), *options]) == 0
    return folder / "out", json.loads((folder / "n.json").read_text())


def test_the_folder_is_the_model_that_loading_quantizes(written, topology):
    folder, numbers = written
    logits = (
        load_model(path, **options).forward(TOKENS)[0]
        for path, options in ((folder, {}), (FOLDER, {"isq": 8, "topology": topology}))
    )
    np.testing.assert_array_equal(*logits)
    by_type = numbers["bytes_by_type"]
    assert by_type.keys() == {"Q8_0", "fp8", "BF16", "F32"}
    assert len(numbers["weights"]) == 338
    assert sum(by_type.values()) == sum(weight["bytes"] for weight in numbers["weights"])
    prepared = PreparedMetadata.of_files(open_checkpoint(folder).metadata())
    assert json.loads(prepared.isq)["topology"] == {"0-3": {"isq": "q8_0"}, "3-6": {"isq": ""}}


def test_the_folder_is_complete_and_verified(written, topology, capsys):
    folder, _ = written
    options = ["--isq", "8", "--topology", str(topology)]
    assert main(["quantize", str(FOLDER), "-o", str(folder), *options]) == 0
    assert "is complete already" in capsys.readouterr().out
    assert main(["quantize", str(FOLDER), "-o", str(folder), "--isq", "8"]) == 2
    assert f"{folder} holds weights of isq" in capsys.readouterr().err
    index = folder / "mimo_weights.safetensors.index.json"
    content = json.loads(index.read_text())
    content["metadata"]["source_files"] = {}  # so that tensors are compared
    index.write_text(json.dumps(content))
    assert main(["prepare", "--output", str(folder), "--verify"]) == 0
    assert "tensors were compared with it" in capsys.readouterr().out


def test_shards_are_written_of_quantized_weights(written, topology, tmp_path):
    options = ["--isq", "8", "--topology", str(topology), "--tensor-parallel", "2"]
    checkpoint = ["--checkpoint", str(FOLDER), "--output", str(tmp_path / "out")]
    assert main(["prepare", *checkpoint, *options]) == 0
    config = MiMoConfig.from_pretrained(tmp_path / "out")
    share = all_shard_specs(2, 2)[1]
    weights = load_weights(tmp_path / "out", config, share=share)
    whole = shard_weights(load_weights(written[0], config), config, share)
    np.testing.assert_array_equal(
        weights.layers[1].attention.w_o_DI.data, whole.layers[1].attention.w_o_DI.data
    )
    assert nbytes(weights.layers) == nbytes(whole.layers)


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["quantize", str(FOLDER), "-o", str(out), "--isq", "8", "--dry-run"]) == 0
    assert not out.exists()
    assert "12.2 MB" in capsys.readouterr().out


def test_errors_are_a_row_for_each_kind(capsys, tmp_path):
    file = tmp_path / "e.json"
    assert main(["quantize", str(FOLDER), "--isq", "8", "--error", "--json", str(file)]) == 0
    assert "model.layers.self_attn.q_proj.weight" in capsys.readouterr().out
    weights = json.loads(file.read_text())["weights"]
    assert len(weights) == 293
    assert all(0.004 < weight["relative_rms"] < 0.008 for weight in weights)
    assert weights[0].keys() == {"name", "type", "relative_rms", "largest_of_range"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["-o", "x"], "one of --isq and --topology is required"),
        (["--isq", "8"], "one of --output and --error is required"),
        (["--isq", "8", "-o", "x", "--error"], "one of --output and --error is required"),
    ],
)
def test_options_that_make_no_sense_are_one_line(options, line, capsys):
    assert main(["quantize", str(FOLDER), *options]) == 2
    assert capsys.readouterr().err == f"mimo quantize: {line}\n"
