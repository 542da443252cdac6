"""Parallel communication: process groups and the collectives that ranks call on them."""

from .consistency import RankError, check_consistent, check_replicas
from .group import Group, HostGroup
from .instrumented_group import InstrumentedGroup
from .launch import init_process_group
from .solo_group import ALONE, SoloGroup
from .thread_group import ThreadGroup

__all__ = [
    "ALONE",
    "Group",
    "HostGroup",
    "InstrumentedGroup",
    "RankError",
    "SoloGroup",
    "ThreadGroup",
    "check_consistent",
    "check_replicas",
    "init_process_group",
]
