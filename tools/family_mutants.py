"""Mutants of the family: what others have read wrongly of the configs of its models."""

from tools.kernel_mutants import Mutant

__all__ = ["FAMILY_MUTANTS"]

PACKAGE, CONFIG_FILE = "mimo_v2_flash", "tests/test_config_file.py"
DEFAULTS = "tests/test_config_defaults.py"

FAMILY_MUTANTS = (
    Mutant(
        "the epsilon of V2.6-Pro is that of V2.6-Flash",
        f"{PACKAGE}/config_presets.py",
        '    "v2.6-pro": Preset(f"{_HUB}-V2.6-Pro-RL", _PRO,',
        '    "v2.6-pro": Preset(f"{_HUB}-V2.6-Pro-RL", _PRO | {"layernorm_epsilon": 1e-6},',
        (CONFIG_FILE,),
    ),
    Mutant(
        "the full layers of a Pro model have a period",
        f"{PACKAGE}/config_presets.py",
        "        *(0, 1, 1, 1, 1, 1, 1) * 2,\n        0,\n",
        "        *(0, 1, 1, 1, 1, 1, 1, 1) * 2,\n",
        (CONFIG_FILE,),
    ),
    Mutant(
        "values of a file without a scale have V2-Flash's",
        f"{PACKAGE}/config_defaults.py",
        '"attention_value_scale": lambda _: 1.0,',
        '"attention_value_scale": lambda _: 0.707,',
        (DEFAULTS,),
    ),
    Mutant(
        "value heads of sliding layers are by default those of full layers",
        f"{PACKAGE}/config_defaults.py",
        '"swa_v_head_dim": itemgetter("swa_head_dim"),',
        '"swa_v_head_dim": itemgetter("v_head_dim"),',
        (DEFAULTS,),
    ),
    Mutant(
        "what a file leaves out is filled in silence",
        f"{PACKAGE}/config_file.py",
        "    if absent:\n",
        "    if absent == {}:\n",
        (DEFAULTS,),
    ),
    Mutant(
        "a block of layers begins with the full one",
        f"{PACKAGE}/config_defaults.py",
        "int((layer + 1) % size != 0)",
        "int(layer % size != 0)",
        (DEFAULTS,),
    ),
    Mutant(
        "experts in MXFP4 are taken for FP8 by quant_method",
        f"{PACKAGE}/config_file.py",
        "EXPERT_FORMATS[entries.get(STORE_DTYPE)]",
        "EXPERT_FORMATS[entries.get(ROUTER_DTYPE and None)]",
        (CONFIG_FILE,),
    ),
)
