"""Tests of hub_tensors: the known size of the hub's files, and what written checkpoints hold."""

from dataclasses import replace

import pytest

from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.meta import hub_tensors, mtp_tensors
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.tiny import tiny


def size(tensors) -> int:
    return sum(info.end - info.begin for info in tensors.values())


def test_mimo_has_the_bytes_of_the_hubs_files():
    """Source: the index of XiaomiMiMo/MiMo-V2-Flash, and the header of its file of MTP weights."""
    main, mtp = hub_tensors(MiMoConfig()), mtp_tensors(MiMoConfig())
    assert (size(main), size(mtp)) == (311_862_258_560, 1_189_400_448)
    assert (len(main), len(mtp)) == (72_766, 60)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("change", [{}, {"experts": 8, "num_kv_heads": 2}])
def test_a_written_checkpoint_has_these_tensors(tmp_path, fused, change):
    written = write_hub_checkpoint(tiny(replace(RECIPE, **change)).oracle, tmp_path, fused=fused)
    source, config = FolderSource(written.folder), MiMoConfig.from_pretrained(written.folder)
    infos = source.tensor_infos(source.names())
    expected = hub_tensors(config, fused=fused)
    mtp = mtp_tensors(config)
    if fused:  # the test's writer fuses the attention of MTP layers too
        mtp = {name: info for name, info in mtp.items() if name in infos}
        infos = {name: info for name, info in infos.items() if name in expected or name in mtp}
    expected |= mtp
    assert {name: (p.dtype, p.shape) for name, p in infos.items()} == {
        name: (p.dtype, p.shape) for name, p in expected.items()
    }
    assert all(infos[name].end - infos[name].begin == p.end for name, p in expected.items())
