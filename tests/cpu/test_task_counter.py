"""Counters of compiled threads: every number once, and a wait ends when the count is reached."""

import threading
import time

import numpy as np
from numba import njit

from mimo_v2_flash.cpu.task_counter import STRIDE, add_one, wait_for

THREADS, TASKS = 4, 20_000


@njit(nogil=True)
def take(count_C, taken_J, thread):
    task = add_one(count_C, STRIDE)
    while task < taken_J.size:
        taken_J[task] += thread
        task = add_one(count_C, STRIDE)


@njit(nogil=True)
def wait(count_C, index, count):
    wait_for(count_C, index, count)


def test_every_task_is_taken_once():
    count_C, taken_J = np.zeros(2 * STRIDE, np.int64), np.zeros(TASKS, np.int64)
    take(np.zeros(2 * STRIDE, np.int64), np.zeros(0, np.int64), 1)
    arguments = [(count_C, taken_J, thread) for thread in range(1, THREADS + 1)]
    threads = [threading.Thread(target=take, args=each) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(np.unique(taken_J)) <= set(range(1, THREADS + 1))
    assert count_C[STRIDE] == TASKS + THREADS
    assert count_C.sum() == count_C[STRIDE]


def test_a_wait_ends_when_the_count_is_reached():
    count_C = np.zeros(2 * STRIDE, np.int64)
    wait(count_C, STRIDE, 0)
    thread = threading.Thread(target=wait, args=(count_C, STRIDE, 2))
    thread.start()
    for _ in range(2):
        time.sleep(0.05)
        assert thread.is_alive()
        take(count_C, np.zeros(0, np.int64), 1)
    thread.join(60)
    assert not thread.is_alive()
