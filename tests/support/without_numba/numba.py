"""What stands for numba on a machine that lacks it: in PYTHONPATH, it hides the installed one."""

raise ModuleNotFoundError("No module named 'numba'", name="numba")
