"""Tests of thread_pool: every index runs once, from any thread, and failures are raised."""

import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from mimo_v2_flash.cpu import thread_pool
from mimo_v2_flash.cpu.thread_pool import available_threads, parallel_for
from mimo_v2_flash.parallel import ThreadGroup


@pytest.fixture(autouse=True, params=[1, 2, 5])
def thread_count(request, monkeypatch):
    """Set the number of cores, and so of threads, to 1, 2 and 5."""
    monkeypatch.setattr(thread_pool, "thread_count", lambda: request.param)
    thread_pool._pool.cache_clear()
    yield request.param
    thread_pool._pool.cache_clear()


def indices(count: int) -> list[int]:
    """Return the indices that `parallel_for` calls its function with, sorted."""
    seen: list[int] = []
    parallel_for(seen.append, count)
    return sorted(seen)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 1000])
def test_every_index_comes_once(count):
    assert indices(count) == list(range(count))


def test_all_threads_work_at_once(thread_count):
    barrier = threading.Barrier(thread_count, timeout=30)
    parallel_for(lambda _: barrier.wait(), thread_count)
    assert not barrier.broken


def test_the_caller_works_too():
    workers: set[int] = set()
    parallel_for(lambda _: workers.add(threading.get_ident()), 1)
    assert workers == {threading.get_ident()}


def test_from_inside_a_worker_everything_is_done_one_by_one():
    seen: Counter[tuple[int, int]] = Counter()
    thread_ids: dict[int, set[int]] = {outer: set() for outer in range(20)}

    def inner(outer: int, index: int) -> None:
        seen[outer, index] += 1
        thread_ids[outer].add(threading.get_ident())

    def run_inner(outer: int) -> None:
        thread_id = threading.get_ident()
        parallel_for(lambda index: inner(outer, index), 7)
        assert thread_ids[outer] == {thread_id}

    parallel_for(run_inner, 20)
    expected = {(outer, index): 1 for outer in range(20) for index in range(7)}
    if thread_pool.thread_count() > 1:  # with one thread, no call is inside a worker
        assert seen == expected


def test_inside_a_worker_no_other_thread_is_free(thread_count):
    seen: list[int] = []
    parallel_for(lambda _: seen.append(available_threads()), 7)
    assert seen == [1] * 7
    assert available_threads() == thread_count


def test_afterwards_the_caller_is_no_worker(thread_count):
    indices(10)
    barrier = threading.Barrier(thread_count, timeout=30)
    parallel_for(lambda _: barrier.wait(), thread_count)  # calls one by one would wait for ever


@pytest.mark.parametrize("bad", [{0}, {3}, {7}, set(range(8))])
def test_a_failure_is_raised_after_the_others_have_finished(bad):
    finished: list[int] = []

    def work(index: int) -> None:
        if index in bad:
            raise KeyError(index)
        time.sleep(0.02)
        finished.append(index)

    with pytest.raises(KeyError) as raised:
        parallel_for(work, 8)
    assert raised.value.args[0] in bad
    count = len(finished)
    time.sleep(0.05)
    assert len(finished) == count  # no thread still works
    assert indices(100) == list(range(100))


def test_a_failure_of_any_thread_is_heard(thread_count):
    barrier, caller = threading.Barrier(thread_count, timeout=30), threading.get_ident()

    def work(_: int) -> None:
        barrier.wait()
        if threading.get_ident() != caller or thread_count == 1:
            raise KeyError("elsewhere")

    with pytest.raises(KeyError, match="elsewhere"):
        parallel_for(work, thread_count)


def test_many_callers_do_not_wait_for_each_other():
    def program(rank: int) -> list[list[int]]:
        return [indices(rank + call) for call in range(30)]

    outputs = ThreadGroup(4).run(program)
    assert outputs == [[list(range(rank + call)) for call in range(30)] for rank in range(4)]


def test_threads_that_need_the_first_pool_at_once_make_one(monkeypatch, thread_count):
    """Two that make a pool at once would pass the barrier; one alone waits in vain."""
    made, second = [], threading.Barrier(2, timeout=0.3)

    class SlowPool(thread_pool.ThreadPoolExecutor):
        def __init__(self, *args, **kwargs):
            made.append(args)
            with pytest.raises(threading.BrokenBarrierError):
                second.wait()
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(thread_pool, "ThreadPoolExecutor", SlowPool)
    threads = [threading.Thread(target=indices, args=(9,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == (thread_count > 1)


AFTER_FORK = """
import os, sys
from mimo_v2_flash.cpu import thread_pool
thread_pool.thread_count = lambda: 3

def works():
    seen = []
    thread_pool.parallel_for(seen.append, 50)
    return sorted(seen) == list(range(50))

assert works()
child = os.fork()
if child == 0:
    os._exit(0 if works() else 3)
_, status = os.waitpid(child, 0)
assert works()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_has_threads_of_its_own(thread_count):
    if thread_count == 1:  # the program sets its number of threads
        subprocess.run([sys.executable, "-c", AFTER_FORK], check=True, timeout=60)


def test_the_number_of_threads_is_the_number_of_cores_that_may_be_used():
    assert thread_pool.thread_count() >= 1
