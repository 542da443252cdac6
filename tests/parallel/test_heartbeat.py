"""HeartbeatMonitor: all ranks learn which are silent, failed or in deadlock, and no others."""

import pytest
from torch.distributed import HashStore

from mimo_v2_flash.parallel import RankError, heartbeat
from mimo_v2_flash.parallel.deadlock import PendingCollective
from mimo_v2_flash.parallel.heartbeat import HeartbeatMonitor

SILENCE = 5


@pytest.fixture
def monitors(monkeypatch):
    """Return the monitors of three ranks after one heartbeat each, without their threads."""
    monkeypatch.setattr(heartbeat, "_BEAT", 0.0)
    store = HashStore()
    monitors = [HeartbeatMonitor(store, rank, 3, heartbeat_timeout=SILENCE) for rank in range(3)]
    store.set("cause", "null")
    for monitor in monitors:
        monitor.leave()
        monitor._left = False
    return monitors


def beat(*monitors: HeartbeatMonitor, times: int = 1) -> None:
    for _ in range(times):
        for monitor in monitors:
            monitor.beat()


def failure(monitor: HeartbeatMonitor) -> str:
    with pytest.raises(RankError) as error:
        monitor.check()
    return str(error.value)


def test_ranks_with_heartbeats_are_alive(monitors):
    beat(*monitors, times=10 * SILENCE)
    for monitor in monitors:
        monitor.check()


def test_a_silent_rank_is_lost_and_all_ranks_learn_it(monitors):
    beat(*monitors)
    beat(*monitors[:2], times=SILENCE - 1)
    monitors[0].check()
    beat(*monitors[:2], times=2)
    beat(monitors[2])  # it was only stopped, and learns that it is too late
    for monitor in monitors:
        assert failure(monitor) == "rank 2 sent no heartbeat for 0 s: killed, or cut off"


def test_only_uninterrupted_silence_counts(monitors):
    for _ in range(3):
        beat(*monitors)
        beat(*monitors[:2], times=SILENCE - 1)
    monitors[0].check()


def test_a_rank_that_slept_does_not_take_the_others_for_lost(monitors):
    beat(*monitors)
    beat(*monitors[1:], times=SILENCE - 1)
    for _ in range(3):  # rank 0 wakes before the others, whose heartbeats are old by then
        beat(monitors[0])
    beat(*monitors, times=SILENCE)
    monitors[0].check()


def test_all_silent_ranks_are_named(monitors):
    beat(monitors[0], times=SILENCE + 1)
    assert failure(monitors[0]).startswith("ranks 1, 2 sent no heartbeat")


def test_all_ranks_learn_the_first_error(monitors, caplog):
    monitors[1].report_error(LookupError("no such expert"))
    monitors[2].report_error(ValueError("an echo"))
    beat(*monitors)
    assert {failure(monitor) for monitor in monitors} == {
        "rank 1 raised LookupError: no such expert"
    }
    assert [record.message for record in caplog.records] == [failure(monitors[0])] * 2  # 1, and 0


def test_the_lowest_surviving_rank_logs_the_cause(monitors, caplog):
    monitors[0].report_error(KeyboardInterrupt())
    caplog.clear()
    beat(monitors[2])
    assert caplog.records == []
    beat(monitors[1])
    assert [record.message for record in caplog.records] == ["rank 0 raised KeyboardInterrupt"]


def test_a_deadlock_is_reported_when_no_rank_makes_progress(monitors):
    monitors[0].pending = PendingCollective((0, 1), 1, "all_reduce")
    monitors[1].pending = PendingCollective((0, 1, 2), 4, "all_gather")
    monitors[2].leave()
    for sequence in range(10):  # rank 0 makes progress
        monitors[0].pending = PendingCollective((0, 1), sequence, "all_reduce")
        beat(*monitors)
    monitors[0].check()
    beat(*monitors, times=4)
    assert failure(monitors[0]) == (
        "deadlock: rank 0: all_reduce waits for rank 1; "
        "rank 1: all_gather waits for ranks 0, 2; rank 2: returned"
    )


def test_waiting_for_a_rank_that_computes_is_no_deadlock(monitors):
    for monitor in monitors[:2]:
        monitor.pending = PendingCollective((0, 1, 2), 1, "all_reduce")
    beat(*monitors, times=20)
    monitors[0].check()


def test_a_broken_network_is_explained_by_the_lost_rank(monitors):
    monitors[1].report_error(LookupError("no such expert"))
    beat(monitors[0])
    message = str(monitors[0].explain("all_reduce", RuntimeError("reset by peer")))
    assert message == "rank 1 raised LookupError: no such expert"
    unknown = str(monitors[2].explain("all_reduce", RuntimeError("reset by peer")))
    assert unknown == "rank 2: all_reduce failed: reset by peer"


def test_a_lost_store_is_reported(monitors, monkeypatch):
    def gone(*_):
        raise RuntimeError("Connection reset\nC++ frames")

    monitors[1]._store = type("Gone", (), {"set": gone})()
    beat(monitors[1])
    assert failure(monitors[1]) == "rank 0 or its launcher has ended: Connection reset"


def test_a_rank_that_does_not_start_is_named():
    monitor = HeartbeatMonitor(HashStore(), 1, 4, heartbeat_timeout=SILENCE)
    with pytest.raises(RankError, match=r"ranks 0, 2, 3 did not start within 0.1 s of the others"):
        monitor.begin(start_timeout=0.1)
