"""Wire: bytes of any length arrive whole, in one round or two; different calls are told apart."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore

from mimo_v2_flash.parallel import RankError
from mimo_v2_flash.parallel.heartbeat import HeartbeatMonitor
from mimo_v2_flash.parallel.transport import INLINE, Transport

LENGTHS = [0, 1, 1000, INLINE - 1, INLINE, INLINE + 1, 3 * INLINE]
P = 3


@pytest.fixture(scope="module")
def wires():
    """Return three ranks' wires: gloo connects threads as it does processes."""
    store = HashStore()
    with ThreadPoolExecutor(P) as pool:
        watches = [HeartbeatMonitor(store, rank, P, silence=9) for rank in range(P)]
        return list(pool.map(lambda monitor: Transport(store, (0, 1, 2), monitor), watches))


def swapped(wires, what_of, messages_of) -> list:
    """Return what every rank gets, or the RankError that it is refused with."""

    def program(transport: Transport):
        try:
            return transport.exchange_bytes(what_of[transport.index], messages_of[transport.index])
        except RankError as error:
            return error

    with ThreadPoolExecutor(P) as pool:
        return list(pool.map(program, wires))


def message(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, length, np.uint8)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(LENGTHS), min_size=P * P, max_size=P * P))
def test_bytes_of_any_length_arrive(wires, lengths):
    sent = [[message(lengths[P * a + b], P * a + b) for b in range(P)] for a in range(P)]
    got = swapped(wires, ["swap"] * P, sent)
    for rank in range(P):
        for sender in range(P):
            np.testing.assert_array_equal(got[rank][sender], sent[sender][rank])


@pytest.mark.parametrize("length", [10, 2 * INLINE])
def test_different_calls_are_told_to_every_rank(wires, length):
    sent = [[message(length * (rank + 1), 0)] * P for rank in range(P)]
    for error in swapped(wires, ["a", "a", "b"], sent):
        assert str(error) == "mismatched collectives: a on ranks 0, 1; b on rank 2"
    swapped(wires, ["again"] * P, sent)


def test_who_waits_says_where(wires):
    monitor = wires[0]._monitor
    places = []
    wait = monitor.check
    monitor.check = lambda: places.append(monitor.at) or wait()
    try:
        swapped(wires, ["a call"] * P, [[message(3, 0)] * P] * P)
    finally:
        del monitor.check
    assert places[0].ranks == (0, 1, 2)
    assert places[0].what == "a call"
    assert monitor.at is None


def test_a_wire_that_was_closed_says_so():
    transport = Transport(HashStore(), (0,), HeartbeatMonitor(HashStore(), 0, 1, silence=9))
    transport.close()
    with pytest.raises(RankError, match="swap: the run has ended"):
        transport.exchange_bytes("swap", [message(3, 0)])
