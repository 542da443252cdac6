"""Files of a model: sizes, disk, page cache and tokenizer, and what to do about each."""

import shutil
import subprocess
from types import SimpleNamespace

import pytest

from mimo_v2_flash.machine import model_files as module
from mimo_v2_flash.machine.diagnosis import NOTE, OK, PROBLEM
from mimo_v2_flash.machine.disk_rate import ReadRate
from mimo_v2_flash.machine.model_files import diagnose_model_files, weight_files
from tests.support.tiny_text import write_text_checkpoint

TOPICS = ["model", "disk", "page cache", "tokenizer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("text")).folder


def diagnosed(model, rate=None):
    diagnoses = {each.topic: each for each in diagnose_model_files(model, lambda _: rate)}
    assert list(diagnoses) == TOPICS
    return diagnoses


def test_a_model_that_fits_is_well(folder):
    diagnoses = diagnosed(folder)
    files = weight_files(folder)
    assert {each.level for each in diagnoses.values()} == {OK}
    numbers = diagnoses["model"].numbers
    assert numbers["files"] == len(files) > 1
    assert numbers["bytes"] == sum(len(file.read_bytes()) for file in files)
    assert "read at" not in diagnoses["disk"].text


@pytest.mark.parametrize(("is_direct", "words"), [(True, "past"), (False, "through")])
def test_the_measured_rate_is_told(folder, is_direct, words):
    disk = diagnosed(folder, ReadRate(2.5e9, 64 * 10**6, is_direct))["disk"]
    assert disk.text.endswith(f"64.0 MB read at 2.5 GB/s {words} the page cache")
    assert disk.numbers["bytes_per_second"] == 2.5e9


def test_a_model_larger_than_memory_is_sent_to_the_plan(folder, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 1000)
    model = diagnosed(folder)["model"]
    assert (model.level, model.text.endswith("more than memory has free")) == (NOTE, True)
    assert model.remedy == f"mimo plan --model {folder} --device-map auto"


def test_a_folder_without_weights_is_a_problem(tmp_path):
    for model in (tmp_path, tmp_path / "absent"):
        (diagnosis,) = diagnose_model_files(model, lambda _: None)
        assert (diagnosis.topic, diagnosis.level) == ("model", PROBLEM)
        assert str(model) in diagnosis.text


def test_a_file_is_its_own_weights(tmp_path):
    file = tmp_path / "model.gguf"
    file.touch()
    assert weight_files(file) == weight_files(tmp_path) == [file]
    (tmp_path / "config.json").touch()
    assert weight_files(tmp_path / "config.json") == []


def test_the_file_system_is_that_of_the_longest_mount(folder, monkeypatch):
    def mount(point, kind):
        return SimpleNamespace(mountpoint=str(point), fstype=kind)

    mounts = [mount("/", "ext4"), mount(folder.parent, "nfs4"), mount("/absent", "xfs")]
    monkeypatch.setattr(module.psutil, "disk_partitions", lambda **_: mounts)
    disk = diagnosed(folder)["disk"]
    assert disk.text.startswith(f"nfs4 at {folder.parent}, ")
    monkeypatch.setattr(module.psutil, "disk_partitions", lambda **_: [])
    assert diagnosed(folder)["disk"].text.startswith("an unknown file system, ")


def test_the_page_cache_is_asked_with_fincore(folder, monkeypatch):
    commands = []

    def run(words, **_):
        commands.extend(words)
        return SimpleNamespace(stdout="4096\n8192\n")

    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    cache = diagnosed(folder)["page cache"]
    assert cache.numbers["cached_of_model_bytes"] == 12288
    assert commands[0] == "/usr/bin/fincore"
    assert commands[-len(weight_files(folder)) :] == [str(file) for file in weight_files(folder)]
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    assert diagnosed(folder)["page cache"].numbers["cached_of_model_bytes"] is None


def test_a_fincore_that_fails_is_a_note(folder, monkeypatch):
    def run(words, **_):
        raise subprocess.CalledProcessError(1, words)

    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    assert diagnosed(folder)["page cache"].level == NOTE


def test_a_folder_without_a_tokenizer_says_what_was_expected(folder, tmp_path):
    for file in weight_files(folder):
        shutil.copy(file, tmp_path)
    tokenizer = diagnosed(tmp_path)["tokenizer"]
    assert (tokenizer.level, tokenizer.remedy) == (PROBLEM, 'pip install -e ".[text]"')
    assert "no tokenizer found" in tokenizer.text


def test_a_tokenizer_without_a_template_cannot_chat(folder, monkeypatch):
    class Bare:
        chat_template = None

        def __len__(self):
            return 300

    monkeypatch.setattr(module, "load_tokenizer", lambda _: Bare())
    tokenizer = diagnosed(folder)["tokenizer"]
    assert (tokenizer.level, tokenizer.text) == (
        NOTE,
        "Bare, 300 tokens, without a chat template",
    )
