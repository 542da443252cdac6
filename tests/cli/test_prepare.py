"""prepare_weights.py prints its sizes, runs once, resumes, and overwrites no other result."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import prepare_weights
from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.prepared import PREPARED_INDEX
from mimo_v2_flash.checkpoint.source import FolderSource, open_checkpoint
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.store import JOURNAL
from tests.support.hub_checkpoint import INDEX, RECIPE, write_hub_checkpoint
from tests.support.local_hub import COMMIT, REPOSITORY, LocalHub, visited
from tests.support.tiny import tiny

FILE = "mimo_weights.safetensors"


SIDE_FILES = {
    "tokenizer.json": b'{"a": 1}\r\n',
    "generation_config.json": b"{}",
    "vocab.json": b"{}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("hub")).folder
    for name, data in {**SIDE_FILES, "modeling.py": b"raise SystemExit"}.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def prepared(folder, output, capsys):
    """Return a function that runs the script, checks its status and returns its output."""

    def prepare(*arguments: object, status: int = 0, source=("--checkpoint", folder)) -> str:
        args = map(str, (*source, "--output", output, *arguments))
        assert prepare_weights.main(list(args)) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return prepare


@pytest.fixture
def unread(monkeypatch):
    """Make reading any weight an error."""
    monkeypatch.setattr(FolderSource, "read", None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_ids_and_ranges_name_the_experts_to_keep(prepared, output):
    prepared("--expert-subset", 4, "0-1")
    config = MiMoConfig.from_pretrained(output)
    assert config.n_routed_experts == RECIPE.experts
    assert load_weights(output / FILE, config).expert_ids == (0, 1, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["1", "1"], r"names \[1\] more than once"), (["0-2", "1"], r"names \[1\] more than once"),
        (["5"], r"names \[5\], allowed are 0-4"), (["2-7"], r"names \[5, 6, 7\], allowed are 0-4"),
        (["two"], "'two' is neither an id nor a range"), (["-"], "'-' is neither"),
    ],
)  # fmt: skip
def test_impossible_experts_are_refused_by_number(prepared, output, words, message):
    line = prepared("--expert-subset", *words, status=2)
    assert re.match(f"prepare_weights.py: --expert-subset:? {message}", line)
    assert not output.exists()


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "argument --num-layers: '0' is not an integer above 0"),
        (4, "--num-layers 4 is not in 1..3"),
    ],
)
def test_impossible_layers_are_refused(prepared, output, count, message):
    assert prepared("--num-layers", count, status=2) == f"prepare_weights.py: {message}\n"
    assert not output.exists()


def test_the_first_layers_are_a_model(folder, prepared, output):
    prepared("--num-layers", 2)
    config = MiMoConfig.from_pretrained(output)
    assert config.layers == MiMoConfig.from_pretrained(folder).layers[:2]
    assert len(load_weights(output, config).layers) == 2


@pytest.mark.parametrize(
    "arguments", [("--no-mtp",), ("--num-layers", 2), ("--expert-subset", 0, 3)]
)
@pytest.mark.parametrize("more", [("--dry-run",), ()])
def test_what_is_left_out_on_purpose_is_one_line(folder, prepared, arguments, more):
    names = list(json.loads((folder / INDEX).read_text())["weight_map"])
    mtp = [name for name in names if name.startswith("model.mtp.")]
    left_out = [] if "--expert-subset" in arguments else [f"{len(mtp)} of model.mtp.*"]
    rest = {
        ("--no-mtp",): [],
        ("--num-layers", 2): [n for n in names if n.startswith("model.layers.2.")],
        ("--expert-subset", 0, 3): [n for n in names if re.search(r"\.experts\.[124]\.", n)],
    }[arguments]
    left_out += [f"{len(rest)} of experts and layers that are not requested"] if rest else []
    lines = prepared(*arguments, *more).splitlines()
    (line,) = [line for line in lines if "left out" in line]
    parts = line.removeprefix("tensors left out: ").split(", ")
    assert sorted(parts) == sorted(left_out)


def test_of_a_whole_model_nothing_is_left_out(prepared):
    assert "left out" not in prepared()


@pytest.mark.usefixtures("unread")
def test_a_dry_run_says_all_and_writes_nothing(prepared, output):
    stdout = prepared("--expert-subset", "0-1", "--dry-run")
    for row in (r"tensors +\d+", "experts +2 of 5", "layers +3", "bytes to read", "bytes on disk"):
        assert re.search(row, stdout), row
    assert len(re.findall(r"(bytes on disk|memory) .* MB +fits in \d", stdout)) == 2
    assert not output.exists()


def test_what_a_dry_run_says_is_so(prepared, output):
    sizes = re.findall(r"bytes on disk +(\S+) MB", prepared("--dry-run", "--dtype", "float32"))
    prepared("--dtype", "float32")
    assert sizes == [f"{(output / FILE).stat().st_size / 1e6:.1f}"]


def test_what_does_not_fit_is_said_and_refused(prepared, output, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    assert "DOES NOT FIT in 1.0 kB" in prepared("--dry-run")
    assert "1,000 are free" in prepared(status=2)


def test_an_interrupted_run_is_continued_if_asked(prepared, output, monkeypatch):
    real, reads = FolderSource.read, []

    def fail_after_40(source, *args):
        reads.append(args)
        if len(reads) > 40:
            raise OSError("cut off")
        return real(source, *args)

    again = "--dtype", "bfloat16"
    monkeypatch.setattr(FolderSource, "read", fail_after_40)
    assert "cut off" in prepared(*again, status=2)
    monkeypatch.undo()
    assert "holds an interrupted run; --resume continues it" in prepared(*again, status=2)
    assert "an interrupted run of other weights" in prepared("--resume", status=2)
    prepared(*again, "--resume")
    assert sorted(contents(output)) == sorted(["config.json", FILE, PREPARED_INDEX, *SIDE_FILES])


def test_a_run_that_ended_at_its_last_step_is_complete(prepared, output):
    prepared()
    (output / JOURNAL).write_text("of a process that ended before it removed this\n")
    assert "complete already" in prepared()


def test_repeated_it_does_nothing(prepared, output, monkeypatch):
    prepared("--expert-subset", "1-2")
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    monkeypatch.setattr(FolderSource, "read", None)
    assert "complete already" in prepared("--expert-subset", 2, 1)
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["--expert-subset", "0-2"], r"experts \[1, 2\], requested is \[0, 1, 2\]"),
        ([], r"experts \[1, 2\], requested is \[0, 1, 2, 3, 4\]"),
        (["--expert-subset", "1-2", "--num-layers", 1], "num_hidden_layers 3, requested is 1"),
        (["--expert-subset", "1-2", "--target", "trainium2"], "target 'cpu', requested is 'trai"),
        (["--expert-subset", "1-2", "--no-mtp"], "mtp_heads 3, requested is 0"),
    ],
)  # fmt: skip
def test_another_result_there_is_left_as_it_is(prepared, output, monkeypatch, other, message):
    prepared("--expert-subset", "1-2")
    before = contents(output)
    monkeypatch.setattr(FolderSource, "read", None)
    assert re.search(f"holds weights of {message}", prepared(*other, status=2))
    assert contents(output) == before


@pytest.mark.usefixtures("unread")
def test_another_model_there_is_left_as_it_is(folder, prepared, output):
    shutil.copytree(folder, output)
    assert "holds config.json of another checkpoint" in prepared(status=2)
    assert contents(output) == contents(folder)


@pytest.mark.usefixtures("unread")
def test_a_damaged_index_is_refused_by_name(prepared, output):
    output.mkdir()
    (output / PREPARED_INDEX).write_text("<html>")
    assert f"output/{PREPARED_INDEX}: damaged, or of another release" in prepared(status=2)


def test_trainium2s_rounding_is_reported(prepared):
    stdout = prepared("--target", "trainium2")
    assert re.search(r"[1-9][\d,]* FP8 values rounded when halved by this run", stdout)


def test_from_the_hub_it_is_the_same_checkpoint(folder, prepared, output, monkeypatch, tmp_path):
    prepared("--expert-subset", "0-1")
    from_folder = Path(shutil.move(output, tmp_path / "from_folder"))
    with visited(LocalHub(folder), monkeypatch, tmp_path / "home"):
        prepared("--expert-subset", "0-1", source=("--model", REPOSITORY, "--revision", COMMIT))
    expected, actual = open_checkpoint(from_folder / FILE), open_checkpoint(output / FILE)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(actual[name], tensor, err_msg=name)
    assert contents(output).keys() == contents(from_folder).keys() > SIDE_FILES.keys()
    assert "modeling.py" not in contents(output)
