"""Tests of ConversionJob: the source's model, also after interruptions, and its metadata."""

import dataclasses
import tracemalloc
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mimo_v2_flash.checkpoint import load_weights, param_specs
from mimo_v2_flash.checkpoint.check import TensorNames
from mimo_v2_flash.checkpoint.source import FolderSource, TensorInfo
from mimo_v2_flash.checkpoint.source_files import FileState
from mimo_v2_flash.checkpoint.subset import keep_experts
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert import job as convert
from mimo_v2_flash.convert import plan as conversion_tasks
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import ConversionJob, plan_conversion_job
from mimo_v2_flash.convert.store import JOURNAL, Store
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.quantization.fp8_projections import SCALE
from tests.support.hub_checkpoint import RECIPE

EVERY = tuple(range(RECIPE.experts))
TOKENS = np.arange(7)[None]


@pytest.fixture(autouse=True)
def several_tasks_per_tensor(monkeypatch):
    monkeypatch.setattr(conversion_tasks, "TASK_BYTES", 20_000)


class CountingSource(FolderSource):
    """A folder that counts how often each range is read, and fails after `most` reads."""

    def __init__(self, path: Path, most: int = 1 << 30) -> None:
        super().__init__(path)
        self.most, self.reads = most, Counter()

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Read, or fail."""
        if self.reads.total() >= self.most:
            raise OSError("cut off")
        self.reads[file, begin, end] += 1
        return super().read(file, begin, end)


def job_of(
    source, output: Path, experts=EVERY, dtype="fp8", target="cpu", **changes
) -> ConversionJob:
    config = dataclasses.replace(MiMoConfig.from_pretrained(source.name), **changes)
    return plan_conversion_job(source, config, output, Encoding(dtype, target), experts)


def run(job: ConversionJob, workers: int = 3) -> ConversionJob:
    job.run(workers=workers, advance=id)
    return job


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def logits(path: Path, config: MiMoConfig, experts=None) -> np.ndarray:
    weights, config = keep_experts(load_weights(path, config), config, experts)
    return MiMoV2FlashModel(weights, config).forward(TOKENS)


@pytest.mark.parametrize("largest_file", [1 << 40, 300_000], ids=["one file", "several"])
def test_folder_and_file_name_both_open_the_sources_model(
    hub_folder, tmp_path, monkeypatch, largest_file
):
    monkeypatch.setattr(convert, "Store", partial(Store, largest_file=largest_file))
    job = run(job_of(FolderSource(hub_folder), tmp_path))
    split = len(list(tmp_path.glob("*.safetensors"))) > 1
    assert split == (largest_file == 300_000)
    expected = logits(hub_folder, job.config)
    assert MiMoConfig.from_pretrained(tmp_path) == job.config
    for path in (tmp_path, tmp_path / "mimo_weights.safetensors"):
        np.testing.assert_array_equal(logits(path, job.config), expected)


@pytest.mark.parametrize("experts", [(0, 2, 3), (4,)])
def test_some_experts_are_those_of_the_whole_model(hub_folder, tmp_path, experts):
    job = run(job_of(FolderSource(hub_folder), tmp_path, experts))
    assert load_weights(tmp_path, job.config).expert_ids == experts
    expected = logits(hub_folder, job.config, experts)
    np.testing.assert_array_equal(logits(tmp_path, job.config), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_other_dtypes_are_the_same_numbers(hub_folder, tmp_path, dtype):
    job = run(job_of(FolderSource(hub_folder), tmp_path, dtype=dtype))
    expected, actual = logits(hub_folder, job.config), logits(tmp_path, job.config)
    allowed = {"bfloat16": 2e-2, "float32": 1e-5}[dtype] * np.ptp(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=allowed)


def test_trainium2s_fp8_is_within_its_range_and_the_same_numbers(hub_folder, tmp_path):
    job = run(job_of(FolderSource(hub_folder), tmp_path, target="trainium2"))
    assert job.encoding.rounded > 0
    expected, actual = logits(hub_folder, job.config), logits(tmp_path, job.config)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3 * np.ptp(expected))
    w_gate = load_weights(tmp_path, job.config).layers[0].feed_forward.w_gate_FD
    assert np.unique(w_gate.code & 0x7F).max() <= 0x77  # 240


@pytest.mark.parametrize("experts", [EVERY, (1, 3)])
def test_what_is_needed_is_read_once_and_nothing_else(hub_folder, tmp_path, experts):
    source = CountingSource(hub_folder)
    job = run(job_of(source, tmp_path, experts))
    assert set(source.reads.values()) == {1}
    assert job.bytes_to_read == sum(end - begin for _, begin, end in source.reads)
    params = {param.name for param in param_specs.all_params(job.config, experts, mtp_heads=3)}
    names = [n for n in source.names() if n.removesuffix(SCALE) in params]
    infos = source.tensor_infos(names).values()
    assert job.bytes_to_read == sum(info.end - info.begin for info in infos)


def test_advance_hears_of_every_byte_in_one_run_and_in_two(hub_folder, tmp_path):
    first, second = [], []
    with pytest.raises(OSError, match="cut off"):
        job_of(CountingSource(hub_folder, most=50), tmp_path).run(workers=1, advance=first.append)
    job = job_of(FolderSource(hub_folder), tmp_path)
    job.run(workers=2, advance=second.append)
    assert 0 < sum(first) == second[0]
    assert sum(second) == job.bytes_to_read


@pytest.mark.parametrize("workers", [1, 4])
def test_cut_off_again_and_again_it_is_as_done_at_once(hub_folder, tmp_path, workers):
    run(job_of(FolderSource(hub_folder), tmp_path / "at once"))
    output, journal = tmp_path / "cut off", tmp_path / "cut off" / JOURNAL
    for _ in range(1000):
        known = journal.read_text() if journal.exists() else ""
        job = job_of(source := CountingSource(hub_folder, most=30), output)
        stored = [task for task in job.plan.tasks if f'["{task.key} ' in known]
        try:
            run(job, workers)
            break
        except OSError:
            assert {path.suffix for path in output.iterdir()} == {".partial", ".journal"}
        finally:
            again = [info for task in stored for info in task.sources]
            assert not any(source.reads[info.file, info.begin, info.end] for info in again)
    assert known.count("\n") > 30
    assert contents(output) == contents(tmp_path / "at once")


def test_another_size_of_tasks_does_not_trust_the_journal(hub_folder, tmp_path, monkeypatch):
    with pytest.raises(OSError, match="cut off"):
        run(job_of(CountingSource(hub_folder, most=60), tmp_path / "a"))
    monkeypatch.setattr(conversion_tasks, "TASK_BYTES", 30_000)
    run(job_of(FolderSource(hub_folder), tmp_path / "a"))
    run(job_of(FolderSource(hub_folder), tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_complete_result_is_known_and_another_is_refused(hub_folder, tmp_path):
    source = FolderSource(hub_folder)
    assert not job_of(source, tmp_path, (0, 1)).is_complete()
    run(job_of(source, tmp_path, (0, 1)))
    assert job_of(source, tmp_path, (0, 1)).is_complete()
    for message, other in {
        r"experts \[0, 1\], requested is \[0, 2\]": {"experts": (0, 2)},
        r"dtype 'fp8', requested is 'float32'": {"dtype": "float32"},
        r"target 'cpu', requested is 'trainium2'": {"target": "trainium2"},
        r"rope_theta 5000000.0, requested is 7": {"rope_theta": 7},
    }.items():
        with pytest.raises(ValueError, match=f"{tmp_path} holds weights of {message}; choose"):
            job_of(source, tmp_path, **({"experts": (0, 1)} | other)).is_complete()
    source.revision = "moved"
    with pytest.raises(ValueError, match="revision '', requested is 'moved'; choose"):
        job_of(source, tmp_path, (0, 1)).is_complete()


class ZeroSource(FolderSource):
    """A source of zeros of any size."""

    def __init__(self) -> None:
        self.name = self.revision = ""

    def file_states(self) -> dict[str, FileState]:
        """Return nothing."""
        return {}

    def side_files(self) -> dict[str, Path]:
        """Return nothing."""
        return {}

    def tensor_infos(self, names: list[str]) -> dict[str, TensorInfo]:
        """Return nothing."""
        return {}

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Return zeros."""
        return bytes(end - begin)


def test_memory_does_not_grow_with_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion_tasks, "TASK_BYTES", 1 << 20)
    info = TensorInfo("", "BF16", (40_000, 512), 0, 40_000 * 1024)
    encoding = Encoding("float32", "cpu")
    plan = conversion_tasks.plain("w", [info], encoding)
    store, names = Store(tmp_path, plan.outputs, {}), TensorNames(["w"], {})
    job = ConversionJob(ZeroSource(), MiMoConfig(), encoding, None, plan, store, names)
    tracemalloc.start()
    job.run(workers=2, advance=id)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000 < job.store.nbytes / 4
