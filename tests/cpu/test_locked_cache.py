"""A locked cache: a function runs once, whichever threads call it first, also after a fork."""

import subprocess
import sys
import threading

import pytest

from mimo_v2_flash.cpu.locked_cache import locked_cache


def call_from_threads(function, count: int) -> list:
    """Return what `function` returns to each of `count` threads that call it at once."""
    results, start = [], threading.Barrier(count, timeout=30)

    def call() -> None:
        start.wait()
        results.append(function())

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_threads_that_call_at_once_get_one_result():
    """Two calls of the function at once would pass the barrier; one alone waits in vain."""
    second = threading.Barrier(2, timeout=0.3)
    calls = []

    @locked_cache
    def function() -> object:
        calls.append(1)
        with pytest.raises(threading.BrokenBarrierError):
            second.wait()
        return object()

    assert len(set(call_from_threads(function, 4))) == 1
    assert calls == [1]


def test_each_argument_has_a_result_and_a_cleared_cache_has_none():
    calls = []
    function = locked_cache(lambda argument: calls.append(argument) or 2 * argument)
    assert [function(1), function(2), function(1)] == [2, 4, 2]
    assert calls == [1, 2]
    function.cache_clear()
    assert (function(1), calls) == (2, [1, 2, 1])


def test_a_failure_is_not_kept():
    failures = [KeyError("first")]

    @locked_cache
    def function() -> int:
        if failures:
            raise failures.pop()
        return 1

    with pytest.raises(KeyError, match="first"):
        function()
    assert function() == 1


def test_a_function_may_call_itself_and_keeps_its_name():
    @locked_cache
    def factorial(number: int) -> int:
        """Return the factorial."""
        return number * factorial(number - 1) if number else 1

    assert factorial(5) == 120
    assert (factorial.__name__, factorial.__doc__) == ("factorial", "Return the factorial.")


FORK = """
import os, sys, threading
from mimo_v2_flash.cpu.locked_cache import locked_cache

inside, release = threading.Event(), threading.Event()

@locked_cache
def function(number):
    if number:
        inside.set()
        release.wait()
    return number

thread = threading.Thread(target=function, args=(1,))
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    os._exit(function(0))
_, status = os.waitpid(child, 0)
release.set()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)
