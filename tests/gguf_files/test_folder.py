"""The folder of a GGUF file: config, tokenizer, template and sampling, as the checkpoint's are."""

import gguf
import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.generation.generation_config import load_generation_config
from mimo_v2_flash.gguf_files import as_folder, gguf_in
from mimo_v2_flash.text.tokenizer import load_tokenizer
from tests.support.gguf_models import write_shipped, write_tiny
from tests.support.shipped import FOLDER as CHECKPOINT


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_shipped(path, CHECKPOINT)
    return path


def test_everything_but_a_gguf_file_is_its_own_folder(tmp_path):
    for path in (tmp_path, tmp_path / "config.json", CHECKPOINT):
        assert as_folder(path) == path


def test_it_is_made_once_and_links_to_the_weights(file):
    folder = as_folder(file)
    assert folder == as_folder(str(file))
    assert folder.name == "tiny"
    assert gguf_in(folder).resolve() == file.resolve()
    assert gguf_in(CHECKPOINT) is None


def test_text_and_sampling_are_the_checkpoints(file):
    config, before = MiMoConfig.from_pretrained(file), MiMoConfig.from_pretrained(CHECKPOINT)
    assert config.layers == before.layers
    assert load_generation_config(file, config) == load_generation_config(CHECKPOINT, before)
    assert load_tokenizer(file).chat_template == load_tokenizer(CHECKPOINT).chat_template


def test_sampling_of_a_file_that_has_ggufs_keys_alone(tmp_path):
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "mimo2")
    source = tmp_path / "tiny.gguf"
    write_tiny(source)
    reader = gguf.GGUFReader(source)
    for field in reader.fields.values():
        if field.name.startswith(("mimo2.", "tokenizer.")):
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub)
    writer.add_float32("general.sampling.temp", 0.5)
    writer.add_uint32("tokenizer.ggml.eos_token_id", 7)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    defaults = load_generation_config(path, MiMoConfig.from_pretrained(path))
    assert (defaults.temperature, defaults.eos_token_ids) == (0.5, (7,))


def test_readings_that_a_file_lacks_are_applied(file):
    config = MiMoConfig.from_pretrained(as_folder(file, value_scale=0.5, window_keys=64))
    assert (config.attention_value_scale, config.sliding_window) == (0.5, 64)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.gguf: no such file"):
        as_folder(tmp_path / "absent.gguf")
