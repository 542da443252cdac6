"""The files of a model: their disk, what of them the page cache has, and the tokenizer."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.filesize import decimal

from mimo_v2_flash.cpu.free_memory import free_memory
from mimo_v2_flash.text.tokenizer import load_tokenizer

from .diagnosis import NOTE, OK, PROBLEM, Diagnosis, attempt
from .disk_rate import ReadRate
from .packages import install_command

__all__ = ["diagnose_model_files", "weight_files"]

NAMES = ("*.safetensors", "*.gguf")


def weight_files(model: Path) -> list[Path]:
    """Return the files that hold the weights of a model: a folder's, or a GGUF file itself."""
    if model.is_file():
        return [model] if any(map(model.match, NAMES)) else []
    return sorted(file for name in NAMES for file in model.glob(name))


def diagnose_model_files(
    model: Path, measure: Callable[[list[Path]], ReadRate | None]
) -> Iterator[Diagnosis]:
    """Yield the diagnoses of a model's files; `measure` returns the rate at which they are read."""
    files = weight_files(model)
    if not files:
        text = f"{model}: no weights ({', '.join(NAMES)})"
        yield Diagnosis("model", text, PROBLEM, "mimo download --help")
        return
    nbytes = sum(file.stat().st_size for file in files)
    yield _model(model, len(files), nbytes)
    yield attempt("disk", partial(_disk, model, partial(measure, files)), "df -h")
    yield attempt("page cache", partial(_page_cache, files, nbytes), "free -h", NOTE)
    yield attempt("tokenizer", partial(_tokenizer, model), install_command("text"))


def _model(model: Path, count: int, nbytes: int) -> Diagnosis:
    text = f"{model}: {decimal(nbytes)} in {count} file{'s' * (count > 1)}"
    numbers = {"folder": model, "files": count, "bytes": nbytes}
    if nbytes <= free_memory():
        return Diagnosis("model", text, numbers=numbers)
    text += ", more than memory has free"
    return Diagnosis("model", text, NOTE, f"mimo plan --model {model} --device-map auto", numbers)


def _disk(model: Path, measure: Callable[[], ReadRate | None]) -> Diagnosis:
    mount = _mount_of(model.resolve())
    free = psutil.disk_usage(str(mount.mountpoint if mount else model)).free
    text = f"{mount.fstype} at {mount.mountpoint}" if mount else "an unknown file system"
    text += f", {decimal(free)} free"
    numbers = {"file_system": mount.fstype if mount else None, "free_bytes": free}
    if (rate := measure()) is not None:
        text += (
            f", {decimal(rate.measured_bytes)} read at {decimal(round(rate.bytes_per_second))}/s "
        )
        text += "past the page cache" if rate.is_direct else "through the page cache"
        numbers |= rate._asdict()
    return Diagnosis("disk", text, numbers=numbers)


def _mount_of(path: Path) -> Any:
    """Return the mounted file system that a path lies on; None if the system does not list it."""
    mounts = [m for m in psutil.disk_partitions(all=True) if path.is_relative_to(m.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint), default=None)


def _page_cache(files: list[Path], nbytes: int) -> Diagnosis:
    cached = getattr(psutil.virtual_memory(), "cached", None)
    resident = _resident(files)
    numbers = {"cached_bytes": cached, "cached_of_model_bytes": resident}
    words = [f"{decimal(cached)} of all files"] if cached is not None else []
    if resident is not None:
        words.append(f"{decimal(resident)} of the model's {decimal(nbytes)}")
    text = ", ".join(words) or "this system does not say what it holds"
    return Diagnosis("page cache", text, numbers=numbers)


def _resident(files: list[Path]) -> int | None:
    """Return the bytes of files that the page cache has; None without util-linux's fincore."""
    if (command := shutil.which("fincore")) is None:
        return None
    words = [command, "--bytes", "--noheadings", "--output", "RES", *map(os.fspath, files)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return sum(map(int, done.stdout.split()))


def _tokenizer(model: Path) -> Diagnosis:
    tokenizer = load_tokenizer(model)
    text = f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens"
    has_template = bool(tokenizer.chat_template)
    text += ", with a chat template" if has_template else ", without a chat template"
    remedy = "" if has_template else f"mimo generate --model {model} --prompt TEXT"
    numbers = {"tokens": len(tokenizer), "has_chat_template": has_template}
    return Diagnosis("tokenizer", text, OK if has_template else NOTE, remedy, numbers)
