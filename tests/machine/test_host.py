"""The host: threads, quotas, memory and compiled code, in folders that stand for /proc and /sys."""

from types import SimpleNamespace

import psutil
import pytest
import threadpoolctl

from mimo_v2_flash.cpu import thread_count as threads
from mimo_v2_flash.machine import host as module
from mimo_v2_flash.machine.diagnosis import NOTE, OK, PROBLEM
from mimo_v2_flash.machine.host import diagnose_host

TOPICS = ["processor", "compiled code", "BLAS", "threads", "memory"]
GB = 10**9


def diagnosed(root="/"):
    diagnoses = {each.topic: each for each in diagnose_host(root)}
    assert list(diagnoses) == TOPICS
    return diagnoses


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Return a function that makes the root of a container with limits on a machine of 64 GB."""
    memory = SimpleNamespace(total=64 * GB, available=50 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)

    def make(cpu: str = "max 100000", limit: str = "max"):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text("0::/\n")
        mount = tmp_path / "sys/fs/cgroup"
        mount.mkdir(parents=True)
        (mount / "cpu.max").write_text(cpu)
        (mount / "memory.max").write_text(limit)
        (mount / "memory.current").write_text(f"{GB // 2}")
        (mount / "memory.stat").write_text("inactive_file 0\n")
        return tmp_path

    return make


def test_limits_of_a_container_are_told(container):
    diagnoses = diagnosed(container("150000 100000", f"{8 * GB}"))
    assert "a CPU quota of 1.5 cores" in diagnoses["threads"].text
    assert diagnoses["threads"].numbers["quota_cores"] == 1.5
    memory = diagnoses["memory"]
    assert memory.text == "7.5 GB free of 64.0 GB, limited to 8.0 GB by a cgroup"
    assert memory.level == OK
    assert memory.numbers == {
        "total_bytes": 64 * GB, "limit_bytes": 8 * GB, "free_bytes": 15 * GB // 2,
    }  # fmt: skip


def test_a_machine_without_limits_says_so(container):
    diagnoses = diagnosed(container())
    assert diagnoses["threads"].text.endswith(", no CPU quota")
    assert diagnoses["threads"].numbers["quota_cores"] is None
    assert diagnoses["memory"].text == "50.0 GB free of 64.0 GB, no cgroup limit"


def test_little_memory_is_a_problem_with_a_command(container):
    memory = diagnosed(container(limit=f"{GB}"))["memory"]
    assert (memory.level, memory.text[:11]) == (PROBLEM, "500.0 MB fr")
    assert memory.remedy.startswith("ps ")


def test_a_variable_that_keeps_cores_idle_is_noted(monkeypatch):
    count = threads.ThreadCount(1, "OMP_NUM_THREADS")
    monkeypatch.setattr(module, "thread_count", lambda: count)
    monkeypatch.setattr(psutil, "cpu_count", lambda **_: 4)
    monkeypatch.setattr(module, "cgroup_quota", lambda _: 3.5)
    diagnosis = diagnosed()["threads"]
    assert (diagnosis.level, diagnosis.remedy) == (NOTE, "export MIMO_NUM_THREADS=3")


def test_a_malformed_variable_is_a_problem(monkeypatch):
    def malformed():
        raise ValueError("MIMO_NUM_THREADS is 'x', allowed is an integer above 0")

    monkeypatch.setattr(module, "thread_count", malformed)
    diagnosis = diagnosed()["threads"]
    assert (diagnosis.level, diagnosis.remedy) == (PROBLEM, "unset MIMO_NUM_THREADS")
    assert "MIMO_NUM_THREADS is 'x'" in diagnosis.text


def test_without_numba_products_are_slow_and_that_is_a_problem(monkeypatch):
    monkeypatch.setattr(module, "compiled_module", lambda _: None)
    diagnosis = diagnosed()["compiled code"]
    assert (diagnosis.level, "numba" in diagnosis.remedy) == (PROBLEM, True)


def test_without_a_folder_each_start_compiles(monkeypatch):
    code = SimpleNamespace(SOURCES=module.Path("x"), code_folder=lambda _: "")
    unit = SimpleNamespace(uses_unit=lambda: False)
    stand_ins = {"code_cache": code, "bfloat16_unit": unit}
    monkeypatch.setattr(module, "compiled_module", stand_ins.get)
    diagnosis = diagnosed()["compiled code"]
    assert (diagnosis.level, diagnosis.remedy) == (NOTE, "export NUMBA_CACHE_DIR=FOLDER")
    assert diagnosis.numbers == {"folder": None, "bfloat16_unit": False}


def test_the_blas_is_that_of_threadpoolctl(monkeypatch):
    library = {"internal_api": "mkl", "version": "2025.1", "num_threads": 3, "user_api": "blas"}
    others = [library | {"user_api": "openmp"}, library]
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: others)
    assert diagnosed()["BLAS"].text == "mkl 2025.1, None, 3 threads"
    monkeypatch.setattr(threadpoolctl, "threadpool_info", list)
    diagnosis = diagnosed()["BLAS"]
    assert (diagnosis.level, diagnosis.numbers) == (OK, {"libraries": []})
