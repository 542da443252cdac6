"""With whom: ranks that run the same program on their own shares."""

from .consistency import RankError, agree
from .group import Group, HostGroup
from .instrumented_group import CountedGroup
from .launch import started
from .solo_group import ALONE, SoloGroup
from .thread_group import ThreadGroup

__all__ = [
    "ALONE",
    "CountedGroup",
    "Group",
    "HostGroup",
    "RankError",
    "SoloGroup",
    "ThreadGroup",
    "agree",
    "started",
]
