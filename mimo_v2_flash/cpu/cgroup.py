"""The control groups of this process, which limit what a container may use.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/cgroups.rst.
"""

from pathlib import Path

__all__ = ["cgroup_folders"]

CGROUPS = Path("sys/fs/cgroup")


def cgroup_folders(controller: str, root: Path = Path("/")) -> list[Path]:
    """Return the folders of the groups that limit a process by a controller, some of them missing.

    Parameters
    ----------
    controller
        "cpu" or "memory".
    root
        Folder that holds `proc` and `sys`.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    return [folder for line in lines for folder in _chain(controller, root, line)]


def _chain(controller: str, root: Path, line: str) -> list[Path]:
    """Return the folders of a group and of all above it, if it has the controller.

    In a container the folders below the mount may be the host's, and missing; the mount is its own.
    """
    _, controllers, path = line.split(":", 2)
    if controllers and controller not in controllers.split(","):
        return []
    mounts = {root / CGROUPS / controllers, root / CGROUPS / (controller if controllers else "")}
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [mount.joinpath(*parts[:n]) for mount in mounts for n in range(len(parts) + 1)]
