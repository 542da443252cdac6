"""ProcessGroup: processes compute what threads compute, and no rank waits for a lost one."""

import socket

import pytest

from mimo_v2_flash.parallel import RankError, init_process_group
from tests.support.processes import by_hand, by_torchrun, free_port

distributed = pytest.mark.distributed

MESSAGES = {
    "raises": "rank {odd} raised LookupError: no such expert",
    "is_killed": "rank {odd} sent no heartbeat for 6 s: killed, or cut off",
    "is_killed_while_others_compute": "rank {odd} sent no heartbeat for 6 s",
    "aborts": "rank {odd} raised LookupError: no such expert",
    "freezes": "rank {odd} sent no heartbeat for 6 s",
    "returns_early": "all_reduce of float32 [1] waits for rank {odd}; rank {odd}: returned",
    "splits_otherwise": "rank {odd}: split into [0, 1, 2] waits for ranks 0, 1",
    "brings_another_shape": "all_reduce of float32 [2] on rank {odd}",
    "calls_another_collective": "all_gather of float32 [1] on rank {odd}",
    "has_another_config": "window: 128 on ranks {others}; 64 on rank {odd}",
}


def count_well(output: str) -> int:
    return output.count("is well")


@distributed
@pytest.mark.parametrize("size", [2, 4, 8])
def test_processes_equal_threads_to_the_bit(size):
    run = by_torchrun("equals_threads", size)
    assert run.codes == [0], run.output
    assert count_well(run.output) == size


@distributed
def test_two_nodes_are_one_run():
    run = by_torchrun("equals_threads", 4, nodes=2)
    assert run.codes == [0, 0], run.output
    assert count_well(run.output) == 4


@distributed
@pytest.mark.parametrize("fault", MESSAGES)
def test_survivors_end_and_name_the_rank_and_the_cause(fault):
    """The test does not stop the survivors: every one of them ends by itself."""
    odd, others = 2, [0, 1, 3]
    run = by_hand(fault, 4, odd=odd)
    assert MESSAGES[fault].format(odd=odd, others="0, 1, 3") in run[0].output
    for rank in others:
        assert run[rank].codes != [0]
        assert f"rank {odd}" in run[rank].output
        assert not count_well(run[rank].output)


@distributed
@pytest.mark.parametrize("fault", ["raises", "is_killed"])
def test_failures_of_rank_0_are_named_too(fault):
    """Rank 0 hosts the store of the heartbeats."""
    run = by_hand(fault, 3, odd=0)
    for rank in (1, 2):
        assert run[rank].codes != [0]
        assert "rank 0 " in run[rank].output


@distributed
@pytest.mark.parametrize("fault", ["raises", "is_killed", "has_another_config"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_run_names_the_rank_and_the_cause(fault, nodes):
    run = by_torchrun(fault, 4, odd=3, nodes=nodes)
    assert 0 not in run.codes
    cause = {"raises": "rank 3 raised LookupError", "has_another_config": "64 on rank 3"}
    assert cause.get(fault, "Signal 9 (SIGKILL)") in run.output
    assert "rank      : 3" in run.output or "rank 3" in run.output
    assert not count_well(run.output)


@distributed
@pytest.mark.parametrize("absent", [0, 2])
def test_a_rank_that_never_starts_is_named(absent):
    runs = by_hand("nothing_wrong", 4, absent=absent, start_timeout=8)
    if absent:
        assert f"rank {absent} did not start within 8 s of the others" in runs[0].output
    for rank, run in runs.items():
        assert rank != absent
        assert run.codes != [0]
        assert f"rank {absent} " in run.output
        assert "start" in run.output


@distributed
def test_a_node_that_never_starts_is_reported():
    """The message is that of torchrun, which starts no rank before all nodes have joined."""
    run = by_torchrun("nothing_wrong", 4, nodes=2, absent_nodes=1, start_timeout=8)
    assert run.codes == [1]
    assert "1/2 clients joined" in run.output


@distributed
def test_a_slow_rank_is_waited_for():
    run = by_hand("is_slow", 3, odd=1, heartbeat_timeout=4)
    assert [run[rank].codes for rank in range(3)] == [[0]] * 3


def variables(**odd: str) -> dict[str, str]:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return {"WORLD_SIZE": "2", "RANK": "0"} | address | odd


def test_an_interface_that_this_machine_does_not_have_is_named():
    env = variables(GLOO_SOCKET_IFNAME="nosuch0")
    with pytest.raises(ValueError, match=r"^GLOO_SOCKET_IFNAME is 'nosuch0', expected .*: .*lo"):
        init_process_group(env).__enter__()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_host_that_nobody_knows_is_named(rank):
    env = variables(MASTER_ADDR="no such host", RANK=rank)
    with pytest.raises(ValueError, match=r"^MASTER_ADDR is 'no such host', expected a host"):
        init_process_group(env).__enter__()


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"^MASTER_PORT is {port}, expected a free port: addr"):
            init_process_group(variables(MASTER_PORT=f"{port}")).__enter__()


def test_a_port_at_which_nobody_listens_is_named():
    env = variables(RANK="1")
    message = f"rank 0 did not start within 0.2 s.*MASTER_PORT {env['MASTER_PORT']}$"
    with pytest.raises(RankError, match=message):
        init_process_group(env, start_timeout=0.2).__enter__()
