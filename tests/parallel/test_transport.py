"""Transport: bytes of any length arrive, in one round or two; mismatched calls raise."""

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
def transports():
    """Return the transports of three ranks: gloo connects threads as it does processes."""
    store = HashStore()
    with ThreadPoolExecutor(P) as pool:
        monitors = [HeartbeatMonitor(store, rank, P, heartbeat_timeout=9) for rank in range(P)]
        return list(pool.map(lambda monitor: Transport(store, (0, 1, 2), monitor), monitors))


def exchanged(transports, collectives, messages) -> list:
    """Return what every rank receives, or the RankError that it raises."""

    def program(transport: Transport):
        try:
            return transport.exchange_bytes(collectives[transport.index], messages[transport.index])
        except RankError as error:
            return error

    with ThreadPoolExecutor(P) as pool:
        return list(pool.map(program, transports))


def message(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, length, np.uint8)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(LENGTHS), min_size=P * P, max_size=P * P))
def test_bytes_of_any_length_arrive(transports, lengths):
    sent = [[message(lengths[P * a + b], P * a + b) for b in range(P)] for a in range(P)]
    received = exchanged(transports, ["exchange"] * P, sent)
    for rank in range(P):
        for sender in range(P):
            np.testing.assert_array_equal(received[rank][sender], sent[sender][rank])


@pytest.mark.parametrize("length", [10, 2 * INLINE])
def test_mismatched_collectives_raise_on_every_rank(transports, length):
    sent = [[message(length * (rank + 1), 0)] * P for rank in range(P)]
    for error in exchanged(transports, ["a", "a", "b"], sent):
        assert str(error) == "mismatched collectives: a on ranks 0, 1; b on rank 2"
    exchanged(transports, ["again"] * P, sent)


def test_a_waiting_rank_publishes_its_collective(transports):
    monitor = transports[0]._monitor
    pending = []
    check = monitor.check
    monitor.check = lambda: pending.append(monitor.pending) or check()
    try:
        exchanged(transports, ["a call"] * P, [[message(3, 0)] * P] * P)
    finally:
        del monitor.check
    assert pending[0].ranks == (0, 1, 2)
    assert pending[0].collective == "a call"
    assert monitor.pending is None


def test_a_closed_transport_raises():
    transport = Transport(
        HashStore(), (0,), HeartbeatMonitor(HashStore(), 0, 1, heartbeat_timeout=9)
    )
    transport.close()
    with pytest.raises(RankError, match="exchange: the process group has been shut down"):
        transport.exchange_bytes("exchange", [message(3, 0)])
