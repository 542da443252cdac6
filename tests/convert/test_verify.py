"""Tests of verification: any bit of a finished folder, and any tensor that the source changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.prepared import MANIFEST, PREPARED_INDEX
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert import plan as conversion_tasks
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import ConversionJob, plan_conversion_job
from mimo_v2_flash.convert.verify import compare_tensors, open_prepared
from tests.support.damage import change_header, overwrite
from tests.support.hub_checkpoint import RECIPE

FILE, SHARD = "mimo_weights.safetensors", "rank-00001-of-00005"
EXPERT = "model.layers.1.mlp.experts.1.up_proj.weight"
CROSSING = "model.layers.2.self_attn"  # K and V share scales


@pytest.fixture(autouse=True)
def _several_tasks_per_tensor(monkeypatch):
    monkeypatch.setattr(conversion_tasks, "TASK_BYTES", 2_000)


def job_of(source: Path, output: Path, shards: int, dtype: str = "fp8") -> ConversionJob:
    config, experts = MiMoConfig.from_pretrained(source), tuple(range(RECIPE.experts))
    encoding = Encoding(dtype, "cpu")
    return plan_conversion_job(
        FolderSource(source), config, output, encoding, experts, expert_parallel=shards
    )


@pytest.fixture(scope="module", params=[1, 5], ids=["one", "shards"])
def finished(request, hub_folder, tmp_path_factory) -> tuple[Path, int]:
    """Return a prepared folder, which no test changes, and its number of shards."""
    output = tmp_path_factory.mktemp("finished")
    job_of(hub_folder, output, request.param).run(workers=2, advance=id)
    return output, request.param


@pytest.fixture
def prepared(finished, tmp_path) -> tuple[Path, int]:
    """Return a copy of a prepared folder, to be changed."""
    return Path(shutil.copytree(finished[0], tmp_path / "prepared")), finished[1]


def differences(output: Path, source: Path, shards: int, dtype: str = "fp8") -> list[str]:
    job, read = job_of(source, output, shards, dtype), []
    lines = compare_tensors(open_prepared(output), job, workers=2, advance=read.append)
    assert sum(read) == job.bytes_to_read
    return lines


def test_a_folder_as_it_was_finished_has_no_damage_and_is_its_source(finished, hub_folder):
    output, shards = finished
    folder, read = open_prepared(output), []
    assert folder.damaged_files(read.append) == []
    assert sum(read) == folder.nbytes
    files = {path for path in output.rglob("*") if path.is_file()}
    indexes = {path for path in files if path.name in {PREPARED_INDEX, MANIFEST}}
    assert folder.checksums.keys() == files - indexes
    assert differences(output, hub_folder, shards) == []


@settings(max_examples=25)
@given(st.data())
def test_any_bit_of_any_file_is_noticed(finished, tmp_path_factory, data):
    output = Path(shutil.copytree(finished[0], tmp_path_factory.mktemp("bit") / "prepared"))
    path = data.draw(st.sampled_from(sorted(open_prepared(output).checksums)))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, 8 * len(content) - 1))
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)
    lines = open_prepared(output).damaged_files(id)
    assert lines == [f"{path}: its bytes are not those of its checksum"]


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_file_that_is_missing_or_empty_is_named(prepared, change):
    output, shards = prepared
    path = output / (SHARD if shards > 1 else "") / FILE
    change(path)
    (line,) = open_prepared(output).damaged_files(id)
    assert line.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (overwrite("model_1_linear_fc1.safetensors", b"\x11", EXPERT), {EXPERT}),
        (
            overwrite("model_2.safetensors", b"\0\0\0A", f"{CROSSING}.k_proj.weight_scale_inv"),
            {f"{CROSSING}.k_proj.weight_scale_inv"},
        ),
        (overwrite("model_final.safetensors", b"\x11", "lm_head.weight"), {"lm_head.weight"}),
    ],
    ids=["expert", "crossing scale", "head"],
)
def test_each_tensor_that_the_source_changed_is_named(
    prepared, hub_folder, tmp_path, damage, names
):
    output, shards = prepared
    damage(changed := Path(shutil.copytree(hub_folder, tmp_path / "changed")))
    lines = differences(output, changed, shards)
    assert {line.split(": ")[1] for line in lines} == {
        f"{n} differs from the source" for n in names
    }
    replicated = 1 if EXPERT in names else shards  # each shard has it, but for an expert
    assert len(lines) == replicated


def test_tensors_of_another_dtype_are_named(finished, hub_folder):
    output, shards = finished
    lines = differences(output, hub_folder, shards, "float32")
    assert any(f"{FILE}: {EXPERT} is F8_E4M3 (72, 136), the source's is F32" in x for x in lines)
    assert any(f"{EXPERT}_scale_inv is not in the source" in line for line in lines)


def test_tensors_that_the_folder_lacks_are_named(prepared, hub_folder):
    output, shards = prepared
    folder = output / (SHARD if shards > 1 else "")

    def renamed(header: dict) -> None:
        header["other"] = header.pop(EXPERT)

    change_header(FILE, renamed)(folder)
    index = json.loads((folder / PREPARED_INDEX).read_text())
    index["weight_map"]["other"] = index["weight_map"].pop(EXPERT)
    (folder / PREPARED_INDEX).write_text(json.dumps(index))
    lines = differences(output, hub_folder, shards)
    assert lines == [
        f"{EXPERT} of the source is missing",
        f"{folder}/{FILE}: other is not in the source",
    ]


UNFINISHED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda folder: [shutil.rmtree(folder), folder.mkdir()], "no finished preparation"),
    "no index": (lambda f: next(f.rglob(PREPARED_INDEX)).unlink(), "no finished preparation is in"),
    "damaged": (lambda f: next(f.rglob(PREPARED_INDEX)).write_text("<"), "damaged, or of another"),
}


@pytest.mark.parametrize(("change", "message"), UNFINISHED.values(), ids=UNFINISHED)
def test_a_folder_that_is_not_finished_is_refused(prepared, change, message):
    output, _ = prepared
    change(output)
    with pytest.raises(ValueError, match=rf"{output}/.*{message}"):
        open_prepared(output)


def test_a_checkpoint_that_was_not_prepared_is_refused(prepared):
    output, shards = prepared
    index = output / (MANIFEST if shards > 1 else PREPARED_INDEX)
    index.write_text(json.dumps({"metadata": {}, "weight_map": {}, "shards": []}))
    with pytest.raises(ValueError, match=rf"{index}: (not of a prepared checkpoint|damaged)"):
        open_prepared(output)
