"""BLAS has one thread while kernels run, and the host application's number before and after."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from mimo_v2_flash import kernels
from mimo_v2_flash.cpu import blas_threads, thread_pool
from mimo_v2_flash.cpu.blas_threads import single_threaded_blas
from mimo_v2_flash.cpu.thread_pool import parallel_for
from mimo_v2_flash.layers.eager_mode import EagerMode
from tests.support.tiny import random_tokens, running, tiny

MODEL = tiny()
HOST = 3


def blas() -> set[int]:
    """Return the numbers of threads of the BLAS libraries of this process."""
    return {
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    }


@pytest.fixture(autouse=True)
def host_application():
    """Give BLAS the number of threads of a host application, which must find it again."""
    with threadpool_limits(HOST, user_api="blas"):
        assert blas() == {HOST}
        yield
        assert blas() == {HOST}


@pytest.fixture
def in_layers(monkeypatch):
    """Return what BLAS's numbers of threads were in the norms of the model's layers."""
    seen: list[set[int]] = []
    rmsnorm = kernels.rmsnorm.rmsnorm

    def watched(*args, **kwargs):
        seen.append(blas())
        return rmsnorm(*args, **kwargs)

    monkeypatch.setattr(EagerMode, "norm", staticmethod(watched))
    return seen


def test_a_step_has_blas_on_one_thread_and_leaves_it_as_it_was(in_layers):
    running(MODEL).forward(random_tokens(MODEL, 2, 9))
    assert in_layers
    assert all(numbers == {1} for numbers in in_layers)
    assert blas() == {HOST}


def test_greedy_tokens_and_text_leave_it_as_it_was(in_layers):
    running(MODEL).generate(random_tokens(MODEL, 2, 9), max_new_tokens=3)
    assert in_layers
    assert all(numbers == {1} for numbers in in_layers)


def test_a_step_that_fails_leaves_it_as_it_was(monkeypatch):
    def fail(*_, **__):
        raise KeyError("a fault")

    monkeypatch.setattr(EagerMode, "norm", staticmethod(fail))
    with pytest.raises(KeyError, match="a fault"):
        running(MODEL).forward(random_tokens(MODEL, 1, 2))
    assert blas() == {HOST}
    with pytest.raises(ValueError, match="outside of the vocabulary"):
        running(MODEL).forward([[10**6]])
    assert blas() == {HOST}


def test_two_threads_that_step_at_once_share_it(in_layers):
    """One begins first and one ends last; BLAS is free again only when both have ended."""
    both, model = threading.Barrier(2, timeout=30), running(MODEL)
    logits, tokens = [None, None], random_tokens(MODEL, 1, 30)

    def step(index: int) -> None:
        both.wait()
        for _ in range(1 + 3 * index):
            logits[index] = model.forward(tokens)

    threads = [threading.Thread(target=step, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(*logits)
    assert all(numbers == {1} for numbers in in_layers)
    assert blas() == {HOST}


def test_kernels_outside_of_a_step_have_it_too(monkeypatch):
    seen = []
    monkeypatch.setattr(thread_pool, "thread_count", lambda: 2)
    parallel_for(lambda _: seen.append(blas()), 4)
    assert seen == [{1}] * 4


def test_it_nests():
    with single_threaded_blas:
        with single_threaded_blas:
            assert blas() == {1}
        assert blas() == {1}
    assert blas() == {HOST}


class OpenMP:
    """A stand-in for OpenBLAS on OpenMP, whose number of threads is the calling thread's."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def get_num_threads(self) -> int:
        """Return the calling thread's number."""
        return getattr(self._of_thread, "number", HOST)

    def set_num_threads(self, number: int) -> None:
        """Set the calling thread's number."""
        self._of_thread.number = number


def test_a_library_with_a_number_for_each_thread_has_one_in_every_thread(monkeypatch):
    library, seen, both = OpenMP(), [], threading.Barrier(2, timeout=30)
    monkeypatch.setattr(blas_threads, "_libraries", lambda *, per_thread: [library] * per_thread)

    def work(index: int) -> None:
        with single_threaded_blas:
            both.wait()  # both are within at once, and leave in any order
            seen.append(library.get_num_threads())
        seen.append(library.get_num_threads())

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [1, 1, HOST, HOST]


def test_a_pools_threads_have_it_in_such_a_library(monkeypatch):
    library, seen, both = OpenMP(), [], threading.Barrier(2, timeout=30)
    monkeypatch.setattr(blas_threads, "_libraries", lambda *, per_thread: [library] * per_thread)
    monkeypatch.setattr(thread_pool, "thread_count", lambda: 2)
    thread_pool._pool.cache_clear()

    def work(_: int) -> None:
        both.wait()  # the caller and a thread of the pool
        seen.append(library.get_num_threads())

    parallel_for(work, 2)
    assert seen == [1, 1]
    assert library.get_num_threads() == HOST
    thread_pool._pool.cache_clear()


def test_what_the_host_sets_between_steps_is_what_it_finds():
    with threadpool_limits(2, user_api="blas"):
        running(MODEL).forward(random_tokens(MODEL, 1, 2))
        assert blas() == {2}


FORK = """
import os, sys, threading
from mimo_v2_flash.cpu.blas_threads import single_threaded_blas

with single_threaded_blas._lock:
    child = os.fork()
    if child == 0:
        with single_threaded_blas:
            os._exit(0)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)


FORK_WITHIN = """
import os, sys, threading
from threadpoolctl import threadpool_info, threadpool_limits
import numpy
from mimo_v2_flash.cpu.blas_threads import single_threaded_blas

def blas():
    return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}

def within():
    with single_threaded_blas:
        inside.set()
        release.wait()

def numbers():
    with single_threaded_blas:
        during = blas()
    return during, blas()

def child_numbers():
    child = os.fork()
    if child == 0:
        os._exit(0 if numbers() == ({1}, {3}) else 5)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

inside, release = threading.Event(), threading.Event()
with threadpool_limits(3, user_api="blas"):
    thread = threading.Thread(target=within)
    thread.start()
    inside.wait()
    status = child_numbers()  # of a fork beside a step
    release.set()
    thread.join()
    with single_threaded_blas:
        child = os.fork()  # within a step
    if child == 0:
        os._exit(0 if (blas(), numbers()) == ({3}, ({1}, {3})) else 7)
    status = status or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(status)
"""


def test_a_child_forked_within_a_step_is_not_within_it():
    subprocess.run([sys.executable, "-c", FORK_WITHIN], check=True, timeout=60)
