"""Mutants of what depends on the machine: numba, caches on disk, threads, forks, systems."""

from tools.kernel_mutants import Mutant

__all__ = ["MACHINE_MUTANTS"]

MACHINE_MUTANTS = (
    Mutant(
        "a big-endian processor reads weights",
        "mimo_v2_flash/cpu/system.py",
        'sys.byteorder == "little" and ',
        "",
        ("tests/cpu/test_system.py::test_another_is_refused",),
    ),
    Mutant(
        "Windows is refused by the first module that it lacks",
        "mimo_v2_flash/cpu/__init__.py",
        "\ncheck_system()\n",
        "",
        ("tests/cpu/test_system.py::test_on_windows_a_command_says_so_in_a_line",),
    ),
    Mutant(
        "a forked child has its parent's steps",
        "mimo_v2_flash/cpu/blas_threads.py",
        "            self._process.leave(others)",
        "            pass",
        ("tests/cpu/test_blas_threads.py::test_a_child_forked_within_a_step_is_not_within_it",),
    ),
    Mutant(
        "threads that begin at once make a pool each",
        "mimo_v2_flash/cpu/locked_cache.py",
        "        with self._lock:\n            return self._cached(*args)",
        "        return self._cached(*args)",
        ("tests/cpu/test_thread_pool.py::test_threads_that_need_the_first_pool_at_once_make_one",),
    ),
    Mutant(
        "a forked child waits for a thread of its parent",
        "mimo_v2_flash/cpu/locked_cache.py",
        "os.register_at_fork(after_in_child=self._renew_lock)",
        "pass",
        ("tests/cpu/test_locked_cache.py",),
    ),
    Mutant(
        "numba is missed where it is not installed alone",
        "mimo_v2_flash/cpu/loading.py",
        "except Exception as failure",
        "except ImportError as failure",
        ("tests/cpu/test_loading.py",),
    ),
    Mutant(
        "a warning for each module that numba cannot compile",
        "mimo_v2_flash/cpu/loading.py",
        "        if not _failures:\n",
        "        if True:\n",
        ("tests/cpu/test_loading.py",),
    ),
    Mutant(
        "a loop in Python under NUMBA_DISABLE_JIT",
        "mimo_v2_flash/cpu/code_cache.py",
        "if config.DISABLE_JIT:\n",
        "if False:\n",
        ("tests/cpu/test_hostile_machines.py::test_products_are_right[compilation is disabled]",),
    ),
    Mutant(
        "damaged code on disk is an error",
        "mimo_v2_flash/cpu/code_cache.py",
        "        with suppress(Exception):\n            return super().load_overload(*args)",
        "        with suppress(OSError):\n            return super().load_overload(*args)",
        ("tests/cpu/test_code_cache.py::test_damaged_code_is_compiled_anew",),
    ),
    Mutant(
        "a full disk is an error",
        "mimo_v2_flash/cpu/code_cache.py",
        "        with suppress(Exception):\n            super().save_overload(*args)",
        "        super().save_overload(*args)",
        ("tests/cpu/test_code_cache.py::test_a_full_disk_keeps_no_code_and_fails_nothing",),
    ),
    Mutant(
        "a folder of code that is in use is removed",
        "mimo_v2_flash/cpu/code_cache.py",
        "                os.utime(folder)\n",
        "                pass\n",
        ("tests/cpu/test_code_cache.py::test_the_folders_that_were_used_last_are_kept",),
    ),
    Mutant(
        "a user without a home is a fault of the program",
        "mimo_v2_flash/cpu/code_cache.py",
        "except (OSError, RuntimeError):",
        "except OSError:",
        ("tests/cpu/test_hostile_machines.py::test_there_is_no_folder_and_no_error",),
    ),
    Mutant(
        "loops that compile when first called",
        "mimo_v2_flash/cpu/code_cache.py",
        "    function.compile(arguments)\n    function.disable_compile()\n",
        "",
        ("tests/cpu/test_hostile_machines.py::test_products_are_right[LLVM fails]",),
    ),
    Mutant(
        "compiled code as old as its loops, not its decoders",
        "mimo_v2_flash/cpu/code_cache.py",
        ".encode() + read(file))",
        ".encode())",
        ("tests/cpu/test_code_cache.py",),
    ),
    Mutant(
        "compiled code as old as what it imports, not what that imports",
        "mimo_v2_flash/cpu/code_cache.py",
        "        waiting += imported\n",
        "",
        ("tests/cpu/test_code_cache.py",),
    ),
)
