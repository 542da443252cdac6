"""Assignment of NeuronCores to ranks, and the errors when there are too few."""

import pytest

from mimo_v2_flash.execution.cores import claim_core


def claimed(available: int, lnc: int = 2, **variables: str) -> dict[str, str]:
    claim_core(variables, lambda: available, lnc=lnc)
    return variables


def rank(number: int, of: int) -> dict[str, str]:
    ranks = {"LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(of)}
    return ranks | {"WORLD_SIZE": str(of), "MASTER_ADDR": "10.0.0.1"}


def test_one_rank_takes_the_first_core_and_no_communicator():
    expected = {"NEURON_LOGICAL_NC_CONFIG": "2", "NEURON_RT_VISIBLE_CORES": "0"}
    assert claimed(64) == expected


def test_every_rank_takes_a_core_and_all_share_the_root_communicator():
    ranks = [claimed(64, **rank(number, of=4)) for number in range(4)]
    cores = [variables["NEURON_RT_VISIBLE_CORES"] for variables in ranks]
    assert cores == ["0", "1", "2", "3"]
    assert {variables["NEURON_RT_ROOT_COMM_ID"] for variables in ranks} == {"10.0.0.1:61239"}


@pytest.mark.parametrize(("cores", "third"), [("8-11", "10"), ("1,5-7", "6"), ("7", "7")])
def test_cores_that_the_user_names_are_kept_to(cores, third):
    user = {"NEURON_RT_VISIBLE_CORES": cores, "NEURON_RT_ROOT_COMM_ID": "host:1"}
    variables = claimed(64, **rank(2, of=4), **user)
    assert variables["NEURON_RT_VISIBLE_CORES"] == third
    assert variables["NEURON_RT_ROOT_COMM_ID"] == "host:1"


@pytest.mark.parametrize(("available", "user"), [(2, {}), (64, {"NEURON_RT_VISIBLE_CORES": "3,4"})])
def test_too_few_cores_are_refused(available, user):
    message = "4 ranks on this machine need a NeuronCore each, 2 are visible"
    with pytest.raises(OSError, match=message):
        claimed(available, **rank(0, of=4), **user)


def test_a_machine_without_cores_is_refused():
    with pytest.raises(OSError, match="need a NeuronCore each, 0 are visible"):
        claimed(0)


def test_logical_cores_must_be_those_of_the_programs():
    assert claimed(128, lnc=1)["NEURON_LOGICAL_NC_CONFIG"] == "1"
    message = "NEURON_LOGICAL_NC_CONFIG is 1, but the programs are compiled for 2"
    with pytest.raises(ValueError, match=message):
        claimed(128, NEURON_LOGICAL_NC_CONFIG="1")


@pytest.mark.parametrize(
    "malformed",
    [
        {"NEURON_RT_VISIBLE_CORES": "all"},
        {"NEURON_RT_VISIBLE_CORES": ""},
        {"NEURON_RT_VISIBLE_CORES": "3-1"},
        {"NEURON_RT_VISIBLE_CORES": "0," + "9" * 30},
        {"LOCAL_WORLD_SIZE": "0"},
        {"LOCAL_RANK": "4"},
        {"LOCAL_RANK": "one"},
        {"WORLD_SIZE": "many"},
        {"MASTER_ADDR": ""},
    ],
)
def test_a_malformed_variable_is_named(malformed):
    (name,) = malformed
    with pytest.raises(ValueError, match=rf"^{name} is .*, expected"):
        claimed(64, **rank(0, of=4) | malformed)
