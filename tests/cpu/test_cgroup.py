"""cgroup: the folders of a process's control groups, of both versions."""

import pytest

from mimo_v2_flash.cpu.cgroup import cgroup_folders


@pytest.mark.parametrize(
    ("groups", "controller", "expected"),
    [
        ("0::/", "cpu", {""}),
        ("0::/pod/box", "memory", {"", "pod", "pod/box"}),
        ("0::/../../box", "cpu", {"", "box"}),
        ("4:memory:/m\n3:cpu,cpuacct:/a", "memory", {"memory", "memory/m"}),
        ("3:cpuacct,cpu:/a", "cpu", {"cpuacct,cpu", "cpuacct,cpu/a", "cpu", "cpu/a"}),
        ("3:cpuset:/a", "cpu", set()),
        ("", "cpu", set()),
    ],
)
def test_the_groups_above_count_too(tmp_path, groups, controller, expected):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    mount = tmp_path / "sys/fs/cgroup"
    assert set(cgroup_folders(controller, tmp_path)) == {mount / folder for folder in expected}


def test_a_machine_without_groups_has_no_folders(tmp_path):
    assert cgroup_folders("memory", tmp_path) == []
