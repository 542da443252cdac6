"""The layouts of the family by other entrances: quantizing while loading, and the hub."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import prepare_weights
from mimo_v2_flash import MiMoConfig, load_model, load_weights
from tests.support.family_checkpoint import RECIPE, V2_5, V2_6, write_family
from tests.support.hub_checkpoint import HubCheckpoint
from tests.support.local_hub import COMMIT, REPOSITORY, LocalHub, visited
from tests.support.tiny import tiny

WORD = (("fused_qkv_weight_order", "interleaved"),)
LAYOUTS = {
    "V2.5": V2_5,
    "V2.6": V2_6,
    "bfloat16 by rank": replace(V2_5, qkv="bfloat16", config=WORD),
}
ERRORS = {"8": 0.005, "fp8": 0.04}  # of the largest value

pytestmark = pytest.mark.filterwarnings("ignore:.*left out")


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def family(request, tmp_path_factory) -> HubCheckpoint:
    folder = tmp_path_factory.mktemp("family")
    return write_family(tiny(RECIPE).oracle, folder, LAYOUTS[request.param])


def numbers(weight) -> np.ndarray:
    return weight.dequantize() if hasattr(weight, "dequantize") else weight.astype(np.float32)


@pytest.mark.parametrize("isq", ERRORS)
def test_quantized_while_loading_q_k_and_v_are_those_of_their_rows(family, isq):
    layers = load_model(family.folder, isq=isq).weights.layers
    for index, layer in enumerate(layers):
        for letter, weight in zip("qkv", layer.attention[:3], strict=True):
            truth = family.truth[f"model.layers.{index}.self_attn.{letter}_proj.weight"]
            error = np.abs(numbers(weight) - truth).max()
            assert error <= ERRORS[isq] * np.abs(truth).max()


def test_experts_from_the_hub_are_those_of_the_folder(family, tmp_path, monkeypatch):
    options = ["--expert-subset", "1", "4", "--output"]
    fetched, copied = tmp_path / "hub", tmp_path / "folder"
    assert prepare_weights.main(["--checkpoint", str(family.folder), *options, str(copied)]) == 0
    with visited(LocalHub(family.folder), monkeypatch, tmp_path / "home") as hub:
        source = ["--model", REPOSITORY, "--revision", COMMIT]
        assert prepare_weights.main([*source, *options, str(fetched)]) == 0
        assert not any("/" in request.file for request in hub.served)  # towers' folders
    config = MiMoConfig.from_pretrained(copied)
    assert load_weights(copied, config).expert_ids == (1, 4)
    for name in data_files(copied):
        assert data_of(fetched / name) == data_of(copied / name)


def data_files(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert names
    return names


def data_of(file: Path) -> bytes:
    """Return a file's bytes without its header, which names its source."""
    content = file.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]
