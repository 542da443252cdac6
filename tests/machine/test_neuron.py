"""Neuron devices and SDK, in a folder that stands for the root of an instance."""

from importlib import metadata

import pytest

from mimo_v2_flash.execution.compiler import NeuronCompiler
from mimo_v2_flash.machine import neuron as module
from mimo_v2_flash.machine.diagnosis import OK, PROBLEM
from mimo_v2_flash.machine.neuron import GUIDE, diagnose_neuron


@pytest.fixture
def instance(tmp_path):
    """Return a function that makes the root of a machine with devices and a driver."""

    def make(devices: int, driver: str | None = "2.24.7.0\n"):
        (tmp_path / "dev").mkdir()
        for index in range(devices):
            (tmp_path / f"dev/neuron{index}").touch()
        (tmp_path / "dev/null").touch()
        if driver is not None:
            (tmp_path / "sys/module/neuron").mkdir(parents=True)
            (tmp_path / "sys/module/neuron/version").write_text(driver)
        return tmp_path

    return make


@pytest.fixture
def sdk(monkeypatch):
    """Return a function that installs packages, by name, and the compiler."""

    def install(**versions: str):
        def version(name: str) -> str:
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        compiler = NeuronCompiler("neuronx-cc", "2.21") if versions else None
        monkeypatch.setattr(module.metadata, "version", version)
        monkeypatch.setattr(NeuronCompiler, "installed", lambda: compiler)

    return install


def test_a_machine_without_devices_is_well(instance, sdk):
    sdk()
    devices, kit = diagnose_neuron(instance(0, None))
    assert (devices.level, kit.level, kit.remedy) == (OK, OK, "")
    assert devices.numbers == {"devices": 0, "driver": None}
    assert kit.text == "without nkipy, spike, neuronx-cc"


def test_an_instance_has_devices_driver_and_versions(instance, sdk):
    sdk(nkipy="0.1", spike="0.2")
    devices, kit = diagnose_neuron(instance(16))
    assert (devices.text, devices.level) == ("16, driver 2.24.7.0", OK)
    assert (kit.text, kit.level) == ("nkipy 0.1, spike 0.2, neuronx-cc 2.21", OK)
    assert kit.numbers == {"nkipy": "0.1", "spike": "0.2", "neuronx-cc": "2.21"}


def test_devices_without_the_sdk_are_a_problem(instance, sdk):
    sdk(nkipy="0.1")
    devices, kit = diagnose_neuron(instance(1))
    assert devices.level == OK
    assert (kit.level, kit.remedy) == (PROBLEM, GUIDE)
    assert kit.text == "nkipy 0.1, neuronx-cc 2.21, without spike"


def test_a_driver_without_devices_is_a_problem(instance, sdk):
    sdk()
    devices, kit = diagnose_neuron(instance(0))
    assert (devices.level, devices.remedy[:13]) == (PROBLEM, "sudo modprobe")
    assert kit.level == OK


def test_a_compiler_that_does_not_run_is_a_problem(instance, sdk, monkeypatch):
    def broken():
        raise ChildProcessError("neuronx-cc --version prints no version (exit status 1)")

    monkeypatch.setattr(NeuronCompiler, "installed", broken)
    kit = [*diagnose_neuron(instance(1))][1]
    assert (kit.level, kit.remedy) == (PROBLEM, GUIDE)
    assert "prints no version" in kit.text


def test_the_guide_is_where_the_remedy_says():
    page, section = GUIDE.split(", ")
    heading, paragraph = section.split(": ")
    text = (module.Path(__file__).parents[2] / page).read_text()
    assert f"**{paragraph}.**" in text.partition(f"## {heading}")[2]
