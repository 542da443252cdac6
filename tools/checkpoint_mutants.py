"""Mutants of what is read: config keys, names of tensors, dtypes and scales of checkpoints."""

from tools.kernel_mutants import Mutant
from tools.layout_mutants import LAYOUT_MUTANTS

__all__ = ["CHECKPOINT_MUTANTS"]

PACKAGE = "mimo_v2_flash"
ENTRANCES = "tests/test_checkpoint_entrances.py"
STORED_DTYPES = "tests/test_stored_dtypes.py"
MTP_HEADS = "tests/convert/test_mtp_heads.py"

CHECKPOINT_MUTANTS = (
    *LAYOUT_MUTANTS,
    Mutant(
        "a key that nobody knows passes in silence",
        f"{PACKAGE}/config_keys.py",
        "[key for key in entries if key not in known]",
        "[]",
        ("tests/test_config_keys.py", "tests/test_config_features.py"),
    ),
    Mutant(
        "a key that changes the arithmetic may have any value",
        f"{PACKAGE}/config_keys.py",
        "if key in entries and entries[key] not in allowed:",
        "if key in entries and entries[key] is Ellipsis:",
        ("tests/test_config_features.py",),
    ),
    Mutant(
        "of a key that is there twice the last value counts",
        f"{PACKAGE}/json_object.py",
        "if len(content) < len(pairs):",
        "if len(content) > len(pairs):",
        ("tests/test_json_object.py", "tests/test_config_refusals.py"),
    ),
    Mutant(
        "a tensor that the model does not use is dropped",
        f"{PACKAGE}/checkpoint/check.py",
        "for name, owner in owners.items() if owner is None]",
        "for name, owner in owners.items() if not name]",
        (ENTRANCES,),
    ),
    Mutant(
        "preparing takes any tensor of a layer for the model's",
        f"{PACKAGE}/checkpoint/check.py",
        "    if name in of_whole:\n",
        """    if of_whole and name.startswith("model.layers."):\n""",
        ("tests/checkpoint/test_check.py",),
    ),
    Mutant(
        "towers of other modalities go unnamed",
        f"{PACKAGE}/checkpoint/load.py",
        "    if names.left_out:\n",
        "    if names.required == []:\n",
        (ENTRANCES,),
    ),
    Mutant(
        "MTP heads in reverse",
        f"{PACKAGE}/checkpoint/load.py",
        "range(mtp_heads))),",
        "reversed(range(mtp_heads)))),",
        (MTP_HEADS,),
    ),
    Mutant(
        "norms of an MTP head's embedding and hidden state swapped",
        f"{PACKAGE}/checkpoint/load.py",
        "        embedding_norm, hidden_norm, attention_norm,",
        "        hidden_norm, embedding_norm, attention_norm,",
        (MTP_HEADS,),
    ),
    Mutant(
        "an MTP head's projections are left fused",
        f"{PACKAGE}/checkpoint/projections.py",
        "for prefix, spec in param_specs.layers(config, tensors):",
        "for prefix, spec in param_specs.layers(config, ()):",
        (MTP_HEADS,),
    ),
    Mutant(
        "shards have MTP heads whole",
        f"{PACKAGE}/convert/shard_plan.py",
        "param_specs.layers(config, outputs)",
        "param_specs.layers(config, ())",
        (MTP_HEADS,),
    ),
    Mutant(
        "MTP heads are kept under --no-mtp",
        f"{PACKAGE}/convert/job.py",
        "mtp and config.layers == whole.layers",
        "config.layers == whole.layers",
        (MTP_HEADS, "tests/cli/test_prepare.py"),
    ),
    Mutant(
        "an MTP head that lacks scales counts",
        f"{PACKAGE}/checkpoint/check.py",
        " and all(info.dtype not in formats for info in infos.values())",
        "",
        ("tests/checkpoint/test_check.py",),
    ),
    Mutant(
        "a file of the index need not be there",
        f"{PACKAGE}/checkpoint/source.py",
        ".difference(files)):",
        ".difference(files, index.weight_map.values())):",
        ("tests/checkpoint/test_open_checkpoint.py",),
    ),
    Mutant(
        "a repository without an index is its first file",
        f"{PACKAGE}/checkpoint/source.py",
        "    shards = sorted(file for file in files if file.endswith(SHARD_SUFFIX))\n",
        "    shards = sorted(file for file in files if file.endswith(SHARD_SUFFIX))[:1]\n",
        (ENTRANCES,),
    ),
    Mutant(
        "a scale of zero hides codes that are not",
        f"{PACKAGE}/quantization/fp8.py",
        "    return not np.any(code.view(np.uint8) & np.uint8(0x7F))\n",
        "    return True\n",
        (STORED_DTYPES,),
    ),
    Mutant(
        "a scale of zero hides codes beyond the first block",
        f"{PACKAGE}/quantization/fp8.py",
        "slice(x * BLOCK, (x + 1) * BLOCK))]",
        "slice(BLOCK))]",
        ("tests/checkpoint/test_check.py",),
    ),
    Mutant(
        "crossing scales stay narrow",
        f"{PACKAGE}/quantization/fp8_projections.py",
        "(widened(k[1]), widened(v[1]))",
        "(k[1], v[1])",
        (STORED_DTYPES,),
    ),
    Mutant(
        "fused scales stay narrow",
        f"{PACKAGE}/quantization/fp8_projections.py",
        "np.repeat(widened(scale_YX),",
        "np.repeat(scale_YX,",
        (STORED_DTYPES,),
    ),
    Mutant(
        "float16 matrices are not widened",
        f"{PACKAGE}/checkpoint/load.py",
        "weight.astype(np.float32) if is_half else weight",
        "weight",
        (STORED_DTYPES,),
    ),
    Mutant(
        "a rounded router is taken without a word",
        f"{PACKAGE}/checkpoint/check.py",
        "if ROUTER in name and info.dtype not in",
        "if ROUTER in name and info.dtype in () and info.dtype not in",
        (STORED_DTYPES,),
    ),
    Mutant(
        "routers stored in bfloat16",
        f"{PACKAGE}/convert/plan.py",
        """    if ROUTER in name:\n        return "F32"\n""",
        "",
        ("tests/convert/test_plan_tasks.py", "tests/test_hub_layout.py"),
    ),
    Mutant(
        "a shard's quantized tensors are sliced as the weight",
        f"{PACKAGE}/convert/shard_plan.py",
        "                slices[names[field]] = part\n",
        "                slices[names[field]] = axis_slice\n",
        ("tests/convert/test_shard_plan.py",),
    ),
    Mutant(
        "a shard's head has the whole vocabulary's rows",
        f"{PACKAGE}/checkpoint/load.py",
        "            self._config, self._shard_spec\n",
        "            self._config\n",
        ("tests/quantization/test_toy_format.py",),
    ),
    Mutant(
        "any bytes are taken for FP8 codes",
        f"{PACKAGE}/checkpoint/check.py",
        """if tensor.file_dtype not in ("", dtype):""",
        """if not dtype:""",
        ("tests/convert/test_plan.py",),
    ),
    Mutant(
        "a bad row's second run hides any fault",
        f"{PACKAGE}/model_runner.py",
        "suppress(MissingProgramError, ChildProcessError)",
        "suppress(OSError, ValueError)",
        ("tests/layers/test_nonfinite.py",),
    ),
    Mutant(
        "end tokens beside the tokenizer are not read",
        f"{PACKAGE}/text/completion.py",
        "    if requested is None:\n",
        "    if False:\n",
        ("tests/text/test_completion.py",),
    ),
)
