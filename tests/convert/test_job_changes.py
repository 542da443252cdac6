"""Tests of ConversionJob when its source changes between runs, during one, or after the last."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.source import SIDE_FILES, FolderSource
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert import plan as conversion_tasks
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import ConversionJob, plan_conversion_job
from mimo_v2_flash.convert.store import JOURNAL, Store
from tests.support.damage import INDEX, overwrite
from tests.support.faulty_disk import FaultyDisk, Killed
from tests.support.hub_checkpoint import RECIPE

FILE, SCALE = "model_1.safetensors", "model.layers.1.self_attn.q_proj.weight_scale_inv"


@pytest.fixture(scope="module")
def hub(hub_folder, tmp_path_factory) -> Path:
    folder = Path(shutil.copytree(hub_folder, tmp_path_factory.mktemp("hub") / "hub"))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def folder(hub, tmp_path) -> Path:
    """Return a copy of the checkpoint, to be changed."""
    return Path(shutil.copytree(hub, tmp_path / "hub"))


@pytest.fixture(autouse=True, scope="module")
def _quick():
    """Sync nothing, and convert larger tasks."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(conversion_tasks, "TASK_BYTES", 200_000)
        monkeypatch.setattr(os, "fsync", id)
        yield


def job_of(folder: Path, output: Path, **options) -> ConversionJob:
    config, experts = MiMoConfig.from_pretrained(folder), tuple(range(RECIPE.experts))
    encoding = Encoding("fp8", "cpu")
    return plan_conversion_job(FolderSource(folder), config, output, encoding, experts, **options)


def run(folder: Path, output: Path, *, last: int | None = None, **options) -> None:
    job = job_of(folder, output, **options)
    with FaultyDisk(last), suppress(Killed):
        job.run(workers=1, advance=id)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def keeping_times(change: Callable[[Path], object], folder: Path) -> None:
    stats = {path: path.stat() for path in folder.iterdir()}
    change(folder)
    for path, stat in stats.items():
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def longer(folder: Path) -> None:
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")


def swapped(folder: Path) -> None:
    """Let two tensors of one dtype and shape exchange their bytes, in the header alone."""
    data = (folder / FILE).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    a, b = (f"model.layers.1.{norm}_layernorm.weight" for norm in ("input", "post_attention"))
    header[a], header[b] = header[b], header[a]
    text = json.dumps(header, separators=(",", ":")).encode().ljust(start - 8)
    (folder / FILE).write_bytes(data[:8] + text + data[start:])


CHANGES = {
    "scales": (partial(keeping_times, overwrite(FILE, b"\0\0\0A", SCALE)), f"{FILE} has other con"),
    "header": (partial(keeping_times, swapped), f"{FILE} has other content"),
    "index": (
        partial(keeping_times, lambda f: (f / INDEX).write_bytes((f / INDEX).read_bytes() + b" ")),
        rf"{INDEX} has [\d,]+ bytes, not",
    ),
    "config": (
        lambda f: (f / "config.json").write_bytes((f / "config.json").read_bytes() + b" "),
        r"config.json has [\d,]+ bytes, not",
    ),
    "size": (partial(keeping_times, longer), "tokenizer.json has 3 bytes, not 2"),
    "time": (lambda folder: os.utime(folder / FILE), f"{FILE} has another modification time"),
    "new file": (lambda folder: (folder / SIDE_FILES[-1]).touch(), f"{SIDE_FILES[-1]} is new"),
    "lost file": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
}


@pytest.fixture(scope="module")
def before_finish(hub, tmp_path_factory) -> int:
    """Return after how many changes of the disk the files get their names."""
    with FaultyDisk() as disk:
        job_of(hub, tmp_path_factory.mktemp("counted")).run(workers=1, advance=id)
    return next(
        n
        for n, change in enumerate(disk.changes)
        if change.endswith("weights.safetensors.partial") and change.startswith("replace")
    )


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("moment", ["begun", "half", "before names", "with names"])
def test_a_source_that_changed_after_a_kill_is_another(
    folder, tmp_path, before_finish, moment, change, message
):
    last = {"begun": 12, "half": 70, "before names": 0, "with names": 2}[moment]
    output = tmp_path / "output"
    run(folder, output, last=last + before_finish * ("names" in moment))
    assert job_of(folder, output).store.is_interrupted
    before = contents(output)
    change(folder)
    with pytest.raises(
        ValueError, match=rf"{output}: this is another source than the interrupted run's: {message}"
    ):
        job_of(folder, output).run(workers=1, advance=id)
    left = contents(output)
    assert left == {name: data for name, data in before.items() if not name.endswith(".lock")}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_source_that_changed_after_the_last_run_is_another(folder, tmp_path, change, message):
    run(folder, output := tmp_path / "output")
    assert job_of(folder, output).is_complete()
    change(folder)
    with pytest.raises(
        ValueError, match=rf"holds weights of another source than {folder} is now: {message}"
    ):
        job_of(folder, output).is_complete()


class ChangingSource(FolderSource):
    """A folder that another program changes when it is read the ninth time."""

    reads = 0

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Read, and be changed."""
        self.reads += 1
        if self.reads == 9:
            overwrite(FILE, b"\0\0\0A", SCALE)(Path(self.name))
        return super().read(file, begin, end)


def test_a_source_that_changes_while_it_is_read_is_noticed(folder, tmp_path):
    job = job_of(folder, output := tmp_path / "output")
    job = dataclasses.replace(job, source=ChangingSource(folder))
    with pytest.raises(ValueError, match=rf"{folder}: changed while it was read: {FILE} has other"):
        job.run(workers=2, advance=id)
    assert not job.store.index.exists()
    with pytest.raises(ValueError, match="this is another source than the interrupted run's"):
        job_of(folder, output).run(workers=2, advance=id)


def test_a_copy_with_other_times_gives_the_same_files(folder, tmp_path):
    run(folder, tmp_path / "a")
    for path in folder.iterdir():
        os.utime(path)
    run(folder, tmp_path / "b")
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert {name for name in a if a[name] != b[name]} == {"mimo_weights.safetensors.index.json"}


@settings(max_examples=8)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=3), st.sampled_from([1, 5]))
def test_killed_at_any_change_a_job_is_completed(tmp_path_factory, hub, lasts, shards):
    folder = tmp_path_factory.mktemp("killed")
    for last in lasts:
        run(hub, folder / "killed", last=last, expert_parallel=shards)
    for name in ("killed", "at once"):
        job = job_of(hub, folder / name, expert_parallel=shards)
        job.run(workers=2, advance=id)
        (folder / name / JOURNAL).unlink(missing_ok=True)
    assert contents(folder / "killed") == contents(folder / "at once")


def test_a_finished_folder_of_the_last_release_is_complete_already(folder, tmp_path):
    """It has no states of its source, and no digest of them in its headers."""
    job = job_of(folder, output := tmp_path / "output")
    former = dataclasses.replace(job.prepared, source_digest="")
    states = job.store.source_files
    store = Store(output, job.plan.outputs, former.to_metadata(), source_files=states)
    dataclasses.replace(job, prepared=former, store=store).run(workers=2, advance=id)
    index = json.loads(store.index.read_bytes())
    assert index["metadata"].pop("source_files").keys() == states.keys()
    store.index.write_text(json.dumps(index))
    assert job.is_complete()
    os.truncate(output / "mimo_weights.safetensors", store.nbytes - 1)
    with pytest.raises(ValueError, match=f"missing or not of {store.nbytes:,} bytes, though"):
        job.is_complete()
