"""Tests of hub_tensors: the known size of the hub's files, and what written checkpoints hold."""

from dataclasses import replace

import pytest

from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import HubLayout
from mimo_v2_flash.costs.meta import NUM_MTP_HEADS, hub_tensors
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.tiny import tiny


def size(tensors) -> int:
    return sum(info.end - info.begin for info in tensors.values())


def test_mimo_has_the_bytes_of_the_hubs_files():
    """Source: the index of XiaomiMiMo/MiMo-V2-Flash, and the header of its file of MTP heads."""
    main = hub_tensors(MiMoConfig())
    whole = hub_tensors(MiMoConfig(), mtp_heads=NUM_MTP_HEADS)
    assert (size(main), size(whole) - size(main)) == (311_862_258_560, 1_189_400_448)
    assert (len(main), len(whole) - len(main)) == (72_766, 60)


def test_a_fused_mtp_head_has_16_tensors():
    """Source: the header of MiMo-V2.5's file of MTP heads."""
    mtp = {
        name: info
        for name, info in hub_tensors(MiMoConfig(), HubLayout(fused=True), mtp_heads=1).items()
        if name.startswith("model.mtp.layers.0.")
    }
    assert len(mtp) == 16
    qkv = "model.mtp.layers.0.self_attn.qkv_proj.weight"
    assert (mtp[qkv].dtype, mtp[qkv].shape) == ("F8_E4M3", (14848, 4096))
    assert (mtp[f"{qkv}_scale_inv"].dtype, mtp[f"{qkv}_scale_inv"].shape) == ("F32", (116, 32))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("change", [{}, {"experts": 8, "num_kv_heads": 2}])
def test_a_written_checkpoint_has_these_tensors(tmp_path, fused, change):
    written = write_hub_checkpoint(tiny(replace(RECIPE, **change)).oracle, tmp_path, fused=fused)
    source, config = FolderSource(written.folder), MiMoConfig.from_pretrained(written.folder)
    infos = source.tensor_infos(source.names())
    expected = hub_tensors(config, HubLayout(fused), mtp_heads=3)
    assert {name: (p.dtype, p.shape) for name, p in infos.items()} == {
        name: (p.dtype, p.shape) for name, p in expected.items()
    }
    assert all(infos[name].end - infos[name].begin == p.end for name, p in expected.items())
