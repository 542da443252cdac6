"""What the scripts do, one file per mode of `run_example.py`."""
