"""Watch: the silent, the failed and the stuck are named to all, and nobody else is."""

import pytest
from torch.distributed import HashStore

from mimo_v2_flash.parallel import RankError, heartbeat
from mimo_v2_flash.parallel.deadlock import PendingCollective
from mimo_v2_flash.parallel.heartbeat import HeartbeatMonitor

SILENCE = 5


@pytest.fixture
def watches(monkeypatch):
    """Return three ranks' watches that have all beaten once, each driven by hand."""
    monkeypatch.setattr(heartbeat, "_BEAT", 0.0)
    store = HashStore()
    three = [HeartbeatMonitor(store, rank, 3, silence=SILENCE) for rank in range(3)]
    store.set("cause", "null")
    for monitor in three:
        monitor.leave()
        monitor._left = False
    return three


def beat(*watches: HeartbeatMonitor, times: int = 1) -> None:
    for _ in range(times):
        for monitor in watches:
            monitor.beat()


def heard(monitor: HeartbeatMonitor) -> str:
    with pytest.raises(RankError) as refused:
        monitor.check()
    return str(refused.value)


def test_who_beats_is_alive(watches):
    beat(*watches, times=10 * SILENCE)
    for monitor in watches:
        monitor.check()


def test_who_is_silent_is_lost_and_everybody_hears_it(watches):
    beat(*watches)
    beat(*watches[:2], times=SILENCE - 1)
    watches[0].check()
    beat(*watches[:2], times=2)
    beat(watches[2])  # it was only stopped: it hears that it is too late
    for monitor in watches:
        assert heard(monitor) == "rank 2 gave no sign of life for 0 s: killed, or cut off"


def test_only_silence_without_a_break_counts(watches):
    for _ in range(3):
        beat(*watches)
        beat(*watches[:2], times=SILENCE - 1)
    watches[0].check()


def test_who_slept_does_not_take_the_others_for_lost(watches):
    beat(*watches)
    beat(*watches[1:], times=SILENCE - 1)
    for _ in range(3):  # rank 0 wakes before the others, whose signs are old by then
        beat(watches[0])
    beat(*watches, times=SILENCE)
    watches[0].check()


def test_all_who_are_silent_are_named(watches):
    beat(watches[0], times=SILENCE + 1)
    assert heard(watches[0]).startswith("ranks 1, 2 gave no sign of life")


def test_what_a_rank_raised_is_heard_and_the_first_cause_stands(watches, caplog):
    watches[1].raised(LookupError("no such expert"))
    watches[2].raised(ValueError("an echo"))
    beat(*watches)
    assert {heard(monitor) for monitor in watches} == {"rank 1 raised LookupError: no such expert"}
    assert [record.message for record in caplog.records] == [heard(watches[0])] * 2  # 1, and 0


def test_the_lowest_rank_that_is_left_speaks(watches, caplog):
    watches[0].raised(KeyboardInterrupt())
    caplog.clear()
    beat(watches[2])
    assert caplog.records == []
    beat(watches[1])
    assert [record.message for record in caplog.records] == ["rank 0 raised KeyboardInterrupt"]


def test_a_standstill_is_one_when_nothing_moves(watches):
    watches[0].at = PendingCollective((0, 1), 1, "all_reduce")
    watches[1].at = PendingCollective((0, 1, 2), 4, "all_gather")
    watches[2].leave()
    for turn in range(10):  # somebody moves
        watches[0].at = PendingCollective((0, 1), turn, "all_reduce")
        beat(*watches)
    watches[0].check()
    beat(*watches, times=4)
    assert heard(watches[0]) == (
        "deadlock: no rank can go on: rank 0: all_reduce waits for rank 1; "
        "rank 1: all_gather waits for ranks 0, 2; rank 2: returned"
    )


def test_who_waits_for_one_that_computes_is_left_alone(watches):
    for monitor in watches[:2]:
        monitor.at = PendingCollective((0, 1, 2), 1, "all_reduce")
    beat(*watches, times=20)
    watches[0].check()


def test_a_broken_network_is_explained_by_the_one_who_is_lost(watches):
    watches[1].raised(LookupError("no such expert"))
    beat(watches[0])
    said = str(watches[0].explain("all_reduce", RuntimeError("reset by peer")))
    assert said == "rank 1 raised LookupError: no such expert"
    unknown = str(watches[2].explain("all_reduce", RuntimeError("reset by peer")))
    assert unknown == "rank 2: all_reduce broke: reset by peer"


def test_a_store_that_has_gone_is_said(watches, monkeypatch):
    def gone(*_):
        raise RuntimeError("Connection reset\nC++ frames")

    watches[1]._store = type("Gone", (), {"set": gone})()
    beat(watches[1])
    assert heard(watches[1]) == "rank 0 or its launcher has ended: Connection reset"


def test_who_does_not_come_is_named():
    monitor = HeartbeatMonitor(HashStore(), 1, 4, silence=SILENCE)
    with pytest.raises(RankError, match=r"ranks 0, 2, 3 did not start within 0.1 s of the others"):
        monitor.begin(patience=0.1)
