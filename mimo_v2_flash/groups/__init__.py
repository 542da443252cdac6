"""With whom: ranks that run the same program on their own shares."""

from .agreement import RankError, agree
from .group import Group, HostGroup
from .solo import SoloGroup
from .threads import ThreadGroup

__all__ = ["Group", "HostGroup", "RankError", "SoloGroup", "ThreadGroup", "agree"]
