"""Each rank claims a core of its machine, and too few cores are said at once."""

import pytest

from mimo_v2_flash.execution.cores import claim_core


def claimed(available: int, lnc: int = 2, **variables: str) -> dict[str, str]:
    claim_core(variables, lambda: available, lnc=lnc)
    return variables


def rank(number: int, of: int) -> dict[str, str]:
    ranks = {"LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(of)}
    return ranks | {"WORLD_SIZE": str(of), "MASTER_ADDR": "10.0.0.1"}


def test_one_rank_takes_the_first_core_and_meets_nobody():
    found = {"NEURON_LOGICAL_NC_CONFIG": "2", "NEURON_RT_VISIBLE_CORES": "0"}
    assert claimed(64) == found


def test_every_rank_takes_its_own_and_all_meet_at_the_first_machine():
    variables = [claimed(64, **rank(number, of=4)) for number in range(4)]
    assert [found["NEURON_RT_VISIBLE_CORES"] for found in variables] == ["0", "1", "2", "3"]
    assert {found["NEURON_RT_ROOT_COMM_ID"] for found in variables} == {"10.0.0.1:61239"}


@pytest.mark.parametrize(("cores", "third"), [("8-11", "10"), ("1,5-7", "6"), ("7", "7")])
def test_cores_that_the_user_names_are_kept_to(cores, third):
    given = {"NEURON_RT_VISIBLE_CORES": cores, "NEURON_RT_ROOT_COMM_ID": "here:1"}
    found = claimed(64, **rank(2, of=4), **given)
    assert found["NEURON_RT_VISIBLE_CORES"] == third
    assert found["NEURON_RT_ROOT_COMM_ID"] == "here:1"


@pytest.mark.parametrize(
    ("available", "given"), [(2, {}), (64, {"NEURON_RT_VISIBLE_CORES": "3,4"})]
)
def test_too_few_cores_are_refused(available, given):
    said = "4 ranks on this machine need a NeuronCore each, 2 are visible"
    with pytest.raises(OSError, match=said):
        claimed(available, **rank(0, of=4), **given)


def test_a_machine_without_cores_is_refused():
    with pytest.raises(OSError, match="need a NeuronCore each, 0 are visible"):
        claimed(0)


def test_logical_cores_must_be_those_of_the_programs():
    assert claimed(128, lnc=1)["NEURON_LOGICAL_NC_CONFIG"] == "1"
    with pytest.raises(ValueError, match="NEURON_LOGICAL_NC_CONFIG is 1, the programs are for 2"):
        claimed(128, NEURON_LOGICAL_NC_CONFIG="1")
