"""load_model under torchrun: ranks share one group, which ends with the process, or by a fault."""

import pytest

from mimo_v2_flash import load_model
from tests.support.processes import ROOT, ended, free_port, start
from tests.support.tiny_text import write_text_checkpoint

pytestmark = pytest.mark.distributed

PROGRAM = """
import os, sys
from mimo_v2_flash import load_model

folder, fault = sys.argv[1:]
prompt = {"max_new_tokens": 5, "temperature": 0}
model = load_model(folder, expert_subset=range(4))
again = load_model(folder, expert_subset=range(4))  # in the same group
tokens = model.generate([[1, 2, 3], [4, 5]], **prompt)
if os.environ["RANK"] == fault:
    raise KeyError("a fault of this rank")
assert again.generate([[1, 2, 3], [4, 5]], **prompt) == tokens
size = model.weights.shard_spec.expert_parallel_size
# One write: two ranks share the stream, and a line in parts could hold the other's in between.
sys.stdout.write(f"rank {os.environ['RANK']} of {size} {tokens}\\n")
"""


@pytest.fixture
def launched(tmp_path):
    """Return a function that runs the program on two ranks, and the folder of the checkpoint."""
    folder = write_text_checkpoint(tmp_path / "hub").folder
    (tmp_path / "program.py").write_text(PROGRAM)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]

    def run(fault: int):
        launch = [*torchrun, f"--master-port={free_port()}", str(tmp_path / "program.py")]
        return ended([start([*launch, str(folder), str(fault)], PYTHONPATH=str(ROOT))])

    return run, folder


def test_the_tokens_are_those_of_one_rank(launched):
    run, folder = launched
    model = load_model(folder, expert_subset=range(4))
    tokens = model.generate([[1, 2, 3], [4, 5]], max_new_tokens=5, temperature=0)
    done = run(fault=-1)
    assert done.codes == [0], done.output
    for rank in range(2):
        assert f"rank {rank} of 2 {tokens}" in done.output


def test_a_rank_that_fails_is_named_on_the_other(launched):
    done = launched[0](fault=1)
    assert done.codes != [0]
    assert "RankError" in done.output
    assert "a fault of this rank" in done.output.split("RankError", 1)[1]
