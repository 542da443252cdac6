"""One rule for every entrance: loading, preparing from disk, and preparing from the hub.

The index says what a checkpoint holds; each tensor that it names is read, left out on purpose, or
an error. All entrances give the same verdict, in the same words.
"""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mimo_v2_flash import MiMoConfig, load_weights
from mimo_v2_flash.checkpoint.hub import HubSource
from mimo_v2_flash.checkpoint.source import FolderSource, Source
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import plan_conversion_job
from tests.support.damage import change_index
from tests.support.hub_checkpoint import INDEX, RECIPE, write_hub_checkpoint
from tests.support.local_hub import REPOSITORY, LocalHub, visited
from tests.support.tiny import tiny

OWNERS = ("model.mtp.", "visual.", "audio_encoder.", "speech_embeddings.")
HEAD = "model.mtp.layers.1"
DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool, torch.float16, torch.float8_e4m3fn)
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("hub")).folder


@pytest.fixture(scope="module")
def names(folder) -> list[str]:
    return list(json.loads((folder / INDEX).read_text())["weight_map"])


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    """Return a function that opens a folder as the hub's repository."""
    home = tmp_path_factory.mktemp("home")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        hub = stack.enter_context(visited(LocalHub(home), patch, home))

        def opened(folder: Path) -> HubSource:
            shutil.rmtree(home / "hub", ignore_errors=True)  # its commit is always the same
            hub.folder = folder
            return HubSource(REPOSITORY)

        yield opened


def copied(folder: Path, target: Path) -> Path:
    """Return a copy of a checkpoint, whose shards are links to the same files."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in folder.iterdir():
        if file.suffix == ".safetensors":
            (target / file.name).hardlink_to(file)
        else:
            shutil.copy(file, target)
    return target


def prepared_from(open_source: Callable[[Path], Source], folder: Path) -> None:
    config = MiMoConfig.from_pretrained(folder)
    experts = tuple(range(config.n_routed_experts))
    plan_conversion_job(open_source(folder), config, folder / "o", Encoding("fp8", "cpu"), experts)


def verdicts(folder: Path, visit: Callable[[Path], HubSource]) -> set[str | None]:
    """Return the refusals of all entrances, without the checkpoint's name; None is none."""
    entrances: list[Callable[[], object]] = [
        lambda: load_weights(folder, MiMoConfig.from_pretrained(folder)),
        lambda: prepared_from(FolderSource, folder),
        lambda: prepared_from(visit, folder),
    ]
    return {_refusal(enter, folder) for enter in entrances}


def _refusal(enter: Callable[[], object], folder: Path) -> str | None:
    """Return how `enter` refuses, in words that are the same for a folder and a repository."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            enter()
        except (OSError, ValueError) as error:
            words = str(error).replace(f"{folder}/", "it: ").replace(str(folder), "it")
            return re.sub("it: (model_|new)", r"\1", words.replace(REPOSITORY, "it"))
    return None


def new_names(names: list[str]) -> st.SearchStrategy[str]:
    """Return names of tensors that the model does not have: near ones, towers and nonsense."""
    near = st.sampled_from(names).flatmap(
        lambda name: st.sampled_from(
            [
                f"{name}_scale",
                f"{name}_scale_inv_inv",
                name.replace("weight", "bias"),
                name.replace("layers.1", "layers.7"),
                name.replace("experts.3", "experts.9"),
                name.removeprefix("model."),
                f"visual.{name}",
            ]
        )
    )
    owned = st.builds("{}{}".format, st.sampled_from(OWNERS), st.sampled_from(names))
    return (near | owned | st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)).filter(
        lambda name: name not in names and name != "__metadata__"
    )


@quick
@given(st.data())
def test_a_new_tensor_is_left_out_on_purpose_or_refused_by_name_everywhere(
    folder, names, visit, tmp_path, data
):
    name, dtype = data.draw(new_names(names)), data.draw(st.sampled_from(DTYPES))
    changed = copied(folder, tmp_path / "changed")
    save_file({name: torch.zeros(2, 3).to(dtype)}, changed / "new.safetensors")
    change_index(lambda file_of: file_of.update({name: "new.safetensors"}))(changed)
    (verdict,) = verdicts(changed, visit)
    if name.startswith(OWNERS):
        assert verdict is None
    elif (weight := name.removesuffix("_inv").removesuffix("_scale")) in names:
        assert weight in str(verdict)  # scales of what is in no format
    else:
        assert verdict == f"it: {name}: 1 tensor unexpected under this config"


@quick
@given(st.data())
def test_without_a_tensor_every_entrance_leaves_the_mtp_head_out_or_refuses_in_the_same_words(
    folder, names, visit, tmp_path, data
):
    """It still stands in its shard: what no index names is nobody's."""
    name = data.draw(st.sampled_from(names))
    changed = copied(folder, tmp_path / "changed")
    change_index(lambda file_of: file_of.pop(name))(changed)
    (verdict,) = verdicts(changed, visit)
    if name.startswith("model.mtp."):
        assert verdict is None
        heads = int(name.split(".")[3])
        config, encoding = MiMoConfig.from_pretrained(changed), Encoding("fp8", "cpu")
        job = plan_conversion_job(FolderSource(changed), config, tmp_path / "o", encoding, (0,))
        with pytest.warns(UserWarning, match=r"tensors left out: \d+ of model\.mtp\.\*$"):
            assert len(load_weights(changed, config).mtp) == heads
        assert job.prepared.mtp_heads == heads
    else:
        assert name.removesuffix("_scale_inv") in str(verdict)


@pytest.mark.parametrize(
    "name", [f"{HEAD}.eh_proj.weight", f"{HEAD}.hnorm.weight", f"{HEAD}.mlp.up_proj.weight"]
)
def test_a_misshapen_tensor_of_a_complete_mtp_head_is_refused_in_the_same_words(
    folder, visit, tmp_path, name
):
    changed = copied(folder, tmp_path / "changed")
    tensors = load_file(changed / "model_mtp.safetensors")
    (changed / "model_mtp.safetensors").unlink()  # a link to the file of the others
    save_file(tensors | {name: tensors[name][1:].clone()}, changed / "model_mtp.safetensors")
    (verdict,) = verdicts(changed, visit)
    assert f"model_mtp.safetensors: {name}" in str(verdict)


@quick
@given(st.sampled_from(DTYPES), st.text(st.characters(codec="utf-8"), max_size=9))
@example(torch.int64, "position_ids")
@example(torch.float32, "model.layers.1.self_attn.q_proj.bias")
def test_what_stands_in_a_shard_and_in_no_index_is_nobodys(
    folder, names, visit, tmp_path, dtype, name
):
    if name == "__metadata__" or name in names:
        return
    changed = copied(folder, tmp_path / "changed")
    shard = changed / "model_1.safetensors"
    tensors = load_file(shard) | {name: torch.zeros(4).to(dtype)}
    shard.unlink()  # a link to the file of the others
    save_file(tensors, shard)
    assert verdicts(changed, visit) == {None}
    expected, actual = (load_weights(f, MiMoConfig.from_pretrained(f)) for f in (folder, changed))
    before, after = (weights.layers[1].attention for weights in (expected, actual))
    np.testing.assert_array_equal(before.w_o_DI, after.w_o_DI)


CONFIGS = {
    "no sinks": {"add_swa_attention_sink_bias": False},
    "sinks in full layers": {"add_full_attention_sink_bias": True},
    "a layer less": {
        "num_hidden_layers": 2, "hybrid_layer_pattern": [0, 1], "moe_layer_freq": [0, 1],
    },
    "an expert less": {"n_routed_experts": 4},
    "an expert more": {"n_routed_experts": 6},
    "a dense layer more": {"moe_layer_freq": [0, 0, 1]},
}  # fmt: skip


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_is_not_the_checkpoints_is_refused_in_the_same_words(
    folder, visit, tmp_path, change
):
    changed = copied(folder, tmp_path / "changed")
    content = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(content | change))
    (verdict,) = verdicts(changed, visit)
    assert verdict is not None
    assert "missing" in verdict or "unexpected" in verdict


@pytest.mark.parametrize("files", [1, 3])
def test_without_an_index_the_headers_say_what_there_is(folder, visit, tmp_path, files):
    config, whole = MiMoConfig.from_pretrained(folder), tmp_path / "whole"
    shutil.copytree(folder, whole, ignore=lambda _, names: [n for n in names if "model" in n])
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    for number in range(files):
        part = dict(list(tensors.items())[number::files])
        save_file(part, whole / f"part_{number}.safetensors")
    assert verdicts(whole, visit) == {None}
    source = visit(whole)
    assert sorted(source.names()) == sorted(tensors)
    assert source.total_size == sum(array.nbytes for array in tensors.values())
    plain, joined = (
        plan_conversion_job(s, config, tmp_path, Encoding("fp8", "cpu"), (1, 3))
        for s in (FolderSource(folder), source)
    )
    assert sorted(plain.plan.outputs) == sorted(joined.plan.outputs)
    assert plain.bytes_to_read == joined.bytes_to_read
    save_file({"lm_head.weight": tensors["lm_head.weight"]}, whole / "zz.safetensors")
    (verdict,) = verdicts(whole, visit)
    assert "lm_head.weight is in part_" in str(verdict)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["pytorch_model.bin"], "holds no .safetensors file; pytorch_model.bin can run code"),
        (["a.safetensors.index.json", "b.safetensors.index.json"], "it: holds 2 indexes: a.safe"),
    ],
)
def test_other_weights_are_refused_in_the_same_words(folder, visit, tmp_path, files, words):
    shutil.copy(folder / "config.json", tmp_path)
    for file in files:
        (tmp_path / file).write_text('{"weight_map": {}}')
    (verdict,) = verdicts(tmp_path, visit)
    assert words in str(verdict)


def test_towers_are_named_in_one_warning_when_loaded(folder, tmp_path):
    changed = copied(folder, tmp_path / "omni")
    towers = {f"{owner}w{i}": torch.zeros(2) for owner in OWNERS[1:] for i in range(2)}
    save_file(towers, changed / "towers.safetensors")
    change_index(lambda file_of: file_of.update(dict.fromkeys(towers, "towers.safetensors")))(
        changed
    )
    with pytest.warns(UserWarning, match=r"omni: tensors left out: ") as caught:
        load_weights(changed, MiMoConfig.from_pretrained(changed))
    (warning,) = caught
    assert warning.filename == __file__
    for owner in OWNERS[1:]:
        assert f"2 of {owner}*" in str(warning.message)
