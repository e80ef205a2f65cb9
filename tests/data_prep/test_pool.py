import os
import signal
import time

from data_prep import pool


def work(kind, value):
    if kind == "hang":
        time.sleep(60)
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "raise":
        raise MemoryError("too much")
    return value * 2


def test_a_hang_or_a_crash_costs_one_input_only():
    tasks = [("fine", index) for index in range(40)]
    tasks[3:3] = [("hang", 100)]
    tasks[20:20] = [("crash", 101)]
    tasks[30:30] = [("raise", 102)]
    start = time.monotonic()
    results = dict(pool.run_all(work, tasks, 2, 1.0, []))
    assert time.monotonic() - start < 20
    assert results.keys() == set(tasks)
    assert results["hang", 100].reason == pool.TIMED_OUT
    assert results["crash", 101].reason == pool.CRASHED
    assert results["raise", 102].reason == pool.CRASHED
    assert "too much" in results["raise", 102].details
    assert all(results["fine", index] == 2 * index for index in range(40))


def test_stops_when_nobody_listens():
    results = pool.run_all(work, [("hang", 1), ("fine", 2)], 2, 60.0, [])
    assert next(results) == (("fine", 2), 4)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 10
