"""Tests of parallel_map: results in order, and an immediate end after a failure."""

import os
import signal
import time
from threading import Event, Lock

import pytest

from mimo_v2_flash.io_threads import parallel_map

HANGS = 0  # the item whose work ends only with the test


@pytest.fixture
def hung():
    """Let work hang until the test is over."""
    over = Event()
    yield over.wait
    over.set()


@pytest.mark.parametrize("workers", [1, 3, 100])
def test_results_are_in_the_order_of_the_items(workers):
    def slower_first(number: int) -> int:
        time.sleep(0.002 * (5 - number))
        return number * number

    assert parallel_map(slower_first, range(5), workers) == [0, 1, 4, 9, 16]


def test_everything_is_worked_on_once():
    seen = []
    parallel_map(seen.append, range(1000), 8)
    assert sorted(seen) == list(range(1000))


def test_nothing_is_no_work():
    assert parallel_map(print, [], 8) == []


def test_no_more_work_at_once_than_workers():
    lock, busy, most = Lock(), 0, 0

    def work(_: int) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.002)
        with lock:
            busy -= 1

    parallel_map(work, range(20), 3)
    assert most == 3


def test_a_failure_is_raised_while_others_hang(hung):
    def work(number: int) -> None:
        if number == HANGS:
            hung()
        raise OSError(f"no {number}")

    with pytest.raises(OSError, match="no 1"):
        parallel_map(work, range(2), 2)


def test_after_a_failure_nothing_more_is_begun():
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.001)
        if number == 3:
            raise OSError("no 3")

    with pytest.raises(OSError, match="no 3"):
        parallel_map(work, range(1000), 2)
    assert sorted(begun)[:4] == [0, 1, 2, 3]
    time.sleep(0.01)
    assert len(begun) < 100


@pytest.fixture
def interruptible():
    """Let SIGINT interrupt, which it does not do to tests that run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_is_raised_while_others_hang(hung):
    def work(number: int) -> None:
        if number != HANGS:
            os.kill(os.getpid(), signal.SIGINT)
        hung()

    with pytest.raises(KeyboardInterrupt):
        parallel_map(work, range(2), 2)
