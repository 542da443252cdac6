"""What a release has: files of the wheel, one version, changelog and citation in their forms."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

import mimo_v2_flash
from tools import release_check

ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def wheel_files(root: Path) -> set[str]:
    """Return the paths of the files that a wheel of a checkout has."""
    files = WheelBuilder(str(root)).recurse_included_files()
    return {file.distribution_path for file in files}


def test_a_wheel_has_the_package_and_the_examples_without_their_training():
    files = wheel_files(ROOT)
    package = {p.relative_to(ROOT) for p in (ROOT / "mimo_v2_flash").rglob("*.py")}
    assert {str(path) for path in package} <= files
    assert {"mimo_v2_flash/py.typed", "mimo_v2_flash/serving/chat_page.html"} <= files
    example = ROOT / "examples" / "mimo-tiny"
    names = {path.name for path in example.iterdir() if path.is_file()}
    inside = {path for path in files if path.startswith("mimo_v2_flash/examples/mimo-tiny/")}
    assert inside == {f"mimo_v2_flash/examples/mimo-tiny/{name}" for name in names}
    assert {path.partition("/")[0] for path in files} == {"mimo_v2_flash"}


def test_another_example_is_in_the_next_wheel(tmp_path):
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("mimo_v2_flash/__init__.py", "examples/__init__.py", "examples/b/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "examples/b/training").mkdir()
    (tmp_path / "examples/b/training/log.jsonl").write_text("")
    expected = {"mimo_v2_flash/__init__.py", "mimo_v2_flash/examples/b/config.json"}
    assert wheel_files(tmp_path) == expected


def test_the_version_stands_in_one_place():
    metadata = ProjectMetadata(str(ROOT), PluginManager())
    assert metadata.version == mimo_v2_flash.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", mimo_v2_flash.__version__)
    assert "version" not in metadata.config["project"]


def test_the_citation_names_the_project_alone():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert [set(author) for author in citation["authors"]] == [{"name"}]
    assert f"# {citation['title']}\n" in (ROOT / "README.md").read_text()
    project = ProjectMetadata(str(ROOT), PluginManager()).config["project"]
    assert citation["license"] == project["license"]
    assert citation["keywords"] == project["keywords"]


def test_the_changelog_has_releases_and_kinds_of_changes():
    headings = re.findall(r"^(##+) (.+)$", CHANGELOG, re.MULTILINE)
    releases = [title for level, title in headings if level == "##"]
    assert releases[0] == "[Unreleased]"
    form = re.compile(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d")
    assert all(map(form.fullmatch, releases[1:]))
    for section in re.split(r"^## .+$", CHANGELOG, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.+)$", section, re.MULTILINE)
        assert kinds == [kind for kind in KINDS if kind in kinds] != []
        assert not re.search(r"^- ", section.partition("### ")[0], re.MULTILINE)


class Scripted:
    """An installation whose commands print what they are told to."""

    def __init__(self, folder, **printed):
        self.folder, self.printed = folder, printed

    def mimo(self, *arguments, text=""):
        return self.printed[arguments[0]]

    def python(self, *arguments, text=""):
        return self.printed["python"]


@pytest.mark.parametrize(
    ("check", "printed"),
    [
        ("version", {"--version": "mimo-v2-flash 0\n", "python": "{}/x.py"}),
        ("version", {"--version": f"mimo-v2-flash {mimo_v2_flash.__version__}\n", "python": "/x"}),
        ("demo", {"demo": '{"generate": {"new_tokens": []}, "test": {"passed": 2, "checks": 2}}'}),
        ("demo", {"demo": '{"generate": {"new_tokens": [1]}, "test": {"passed": 1, "checks": 2}}'}),
        ("chat", {"run": "\n"}),
        ("python", {"python": "[1, 2, 3]"}),
    ],
)
def test_what_is_wrong_fails_the_check(check, printed, tmp_path):
    with pytest.raises(AssertionError):
        getattr(release_check, f"check_{check}")(Scripted(tmp_path, **printed))
