"""With whom: ranks that run the same program on their own shares."""

from .agreement import RankError, agree
from .counted import CountedGroup
from .group import Group, HostGroup
from .solo import ALONE, SoloGroup
from .started import started
from .threads import ThreadGroup

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
