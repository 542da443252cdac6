"""Mutants of the family: what others have read wrongly of its configs and files."""

from tools.kernel_mutants import Mutant

__all__ = ["FAMILY_MUTANTS"]

COUNTS = "tests/costs/test_tensor_counts.py"
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
    Mutant(
        "as many MTP heads as a key of config.json says, or one",
        f"{PACKAGE}/costs/meta.py",
        "NUM_MTP_HEADS = 3\n",
        "NUM_MTP_HEADS = 1\n",
        (COUNTS,),
    ),
    Mutant(
        "selection biases in the dtype of routers",
        f"{PACKAGE}/checkpoint/param_specs.py",
        'return layout.router_dtype if name.endswith(".weight") else "F32"',
        "return layout.router_dtype",
        (COUNTS,),
    ),
    Mutant(
        "MTP heads and the first layer in the format of experts",
        f"{PACKAGE}/checkpoint/param_specs.py",
        "(EXPERTS in name and layout.expert_format)",
        '(".mlp." in name and layout.expert_format)',
        (COUNTS,),
    ),
    Mutant(
        "scale rows of a fused projection on one grid",
        f"{PACKAGE}/costs/meta.py",
        "config.num_key_value_heads if by_rank else 1",
        "config.num_key_value_heads if name in crossing else 1",
        (COUNTS,),
    ),
    Mutant(
        "projections of a fused file planned as plain arrays",
        f"{PACKAGE}/costs/meta.py",
        "plan.formats, config",
        "{n: f for n, f in plan.formats.items() if '.q_proj.' not in n}, config",
        ("tests/costs/test_meta.py",),
    ),
    Mutant(
        "programs take experts in MXFP4",
        f"{PACKAGE}/costs/deployment.py",
        "self.layout._replace(expert_format=None)",
        "self.layout",
        ("tests/costs/test_deployment.py",),
    ),
)
