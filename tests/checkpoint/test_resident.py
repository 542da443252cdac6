"""Tests of memory: loading touches no expert; a rank that used its weights holds its shard."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.params import nbytes
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import plan_conversion_job
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.tiny import tiny

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(), reason="Linux says what is resident"
)
# Matrices of half a megabyte per expert: pages that the system maps around one are little of it.
LARGE = replace(RECIPE, hidden=512, expert_width=1024, experts=8, dense_width=512)
PROGRAM = """
import sys
import numpy as np
from mimo_v2_flash import MiMoConfig, load_weights
from mimo_v2_flash.execution.pytree import tree_arrays
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.checkpoint.subset import shard_weights

folder, shard_spec = sys.argv[1], ParallelConfig(8, int(sys.argv[2]), 8).shard_spec(3)
config = MiMoConfig.from_pretrained(folder)
weights = shard_weights(load_weights(folder, config, share=shard_spec), config, shard_spec)
for array in tree_arrays(weights).values():
    np.sum(np.asarray(array, np.float32))
resident, path = {}, ""
for line in open("/proc/self/smaps"):
    first, *rest = line.split()
    if "-" in first:
        path = rest[-1] if rest[-1].endswith(".safetensors") else ""
    elif first == "Rss:" and path:
        resident[path] = resident.get(path, 0) + 1024 * int(rest[0])
print(sum(resident.values()), *resident)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Return a checkpoint, and its shards."""
    folder = tmp_path_factory.mktemp("resident")
    hub = write_hub_checkpoint(tiny(LARGE).oracle, folder / "hub").folder
    source, encoding = FolderSource(hub), Encoding("fp8", "cpu")
    split = {"expert_parallel": 8, "tensor_parallel": 2}
    config, experts = MiMoConfig.from_pretrained(hub), tuple(range(LARGE.experts))
    job = plan_conversion_job(source, config, folder / "shards", encoding, experts, **split)
    job.run(workers=2, advance=id)
    return hub, folder / "shards"


def used(folder: Path, tensor_parallel: int) -> tuple[int, list[str]]:
    """Return the resident bytes of rank 3 once it has used its weights, and the files mapped."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(tensor_parallel)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    resident, *files = done.stdout.split()
    return int(resident), files


def shard_bytes(hub: Path, tensor_parallel: int) -> tuple[int, int]:
    """Return the bytes of rank 3's shard, and of all weights."""
    config = MiMoConfig.from_pretrained(hub)
    weights = load_weights(hub, config)
    shard_spec = ParallelConfig(8, tensor_parallel, 8).shard_spec(3)
    return nbytes(shard_weights(weights, config, shard_spec)), nbytes(weights)


def test_of_shards_a_rank_holds_its_own_within_5_percent(folders):
    hub, shards = folders
    shard, whole = shard_bytes(hub, 2)
    resident, files = used(shards, 2)
    assert files == [str(shards / "rank-00003-of-00008" / "mimo_weights.safetensors")]
    assert resident == pytest.approx(shard, rel=0.05)
    assert shard < whole / 2


def test_of_a_whole_checkpoint_a_rank_leaves_the_experts_of_others_unread(folders):
    """The system maps pages around those that are read: how many is not documented, but few."""
    hub, _ = folders
    shard, whole = shard_bytes(hub, 1)
    resident, _ = used(hub, 1)
    assert resident < (shard + whole) / 2


# Every map of a file of experts is made unreadable: a process that touches a byte of it is killed.
GUARDED = """
import ctypes, mmap, sys
import numpy as np
from mimo_v2_flash import MiMoConfig, load_weights

libc, real = ctypes.CDLL(None, use_errno=True), np.memmap
guarded = []

def memmap(path, *arguments, **options):
    array = real(path, *arguments, **options)
    if "linear_fc" in str(path):
        pages = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        assert libc.mprotect(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(pages), 0) == 0
        guarded.append(path)
    return array

np.memmap = memmap
folder, use = sys.argv[1:]
weights = load_weights(folder, MiMoConfig.from_pretrained(folder))
experts = weights.layers[1].feed_forward.experts
print("loaded", len(guarded), len(experts.w_up_eFD), flush=True)
if use == "scale":
    experts.w_up_eFD[3].scale
if use == "code":
    experts.w_up_eFD[3].code.sum()
"""


@pytest.mark.parametrize("use", ["nothing", "scale", "code"])
def test_loading_touches_no_byte_of_an_expert_and_use_does(folders, use):
    command = [sys.executable, "-c", GUARDED, str(folders[0]), use]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "loaded 4 8\n", done.stderr
    assert done.returncode == (0 if use == "nothing" else -signal.SIGSEGV), done.stderr
