"""`mimo doctor`: a line for each diagnosis, remedies, the status, and JSON."""

import json

import pytest
from huggingface_hub import constants

from mimo_v2_flash.cli import doctor
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.machine.diagnosis import NOTE, OK, PROBLEM, Diagnosis

TOPICS = {
    *("Python", "packages", "extra serve", "processor", "compiled code", "BLAS", "threads"),
    *("memory", "model", "disk", "page cache", "tokenizer", "Neuron devices", "Neuron SDK", "hub"),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def two(monkeypatch):
    """Let there be two diagnoses: one is well, the other has this level."""

    def stand_in(level: str) -> None:
        ill = Diagnosis("disk", "it is [full]", level, "df -h")
        monkeypatch.setattr(doctor, "diagnose_host", lambda: iter([ill]))
        for name in ("diagnose_packages", "diagnose_model_files", "diagnose_neuron"):
            monkeypatch.setattr(doctor, name, lambda *_: iter(()))

    return stand_in


def test_this_machine_is_well_enough_to_run_its_tests(capsys):
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    checks = {check["topic"]: check for check in json.loads(out)["checks"]}
    assert checks.keys() >= TOPICS
    for check in checks.values():
        assert (check["level"] == OK) == (check["remedy"] == ""), check
        assert check["text"] in err
    assert checks["packages"]["level"] == checks["tokenizer"]["level"] == OK


@pytest.mark.parametrize(
    ("level", "strict", "status"), [(NOTE, 0, 0), (NOTE, 1, 0), (PROBLEM, 0, 0), (PROBLEM, 1, 1)]
)
def test_a_problem_alone_is_a_status_and_only_if_strict(two, level, strict, status, capsys):
    two(level)
    assert main(["doctor", *["--strict"] * strict]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(maxsplit=2) == [level, "disk", "it is [full]"]
    assert lines[1].split() == ["->", "df", "-h"]
    assert lines[2].split(maxsplit=2) == [OK, "hub", "not asked: HF_HUB_OFFLINE is set"]
    assert lines[3] == ("1 of 2 are problems." if level == PROBLEM else "All is well.")


def test_the_disk_is_measured_if_that_is_asked_for(capsys):
    assert main(["doctor", "--measure", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    disk = next(check for check in checks if check["topic"] == "disk")
    assert disk["numbers"]["measured_bytes"] > 10**7
    assert disk["numbers"]["bytes_per_second"] > 0


def test_a_model_that_is_not_there_is_told_in_its_line(capsys):
    assert main(["doctor", "--model", "nowhere"]) == 0
    assert "problem model" in capsys.readouterr().out
    assert main(["doctor", "--model", "nowhere", "--strict"]) == 1
