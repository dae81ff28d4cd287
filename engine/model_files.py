"""Which files a model name means, and a fingerprint that changes when the model does."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import xxhash

from docmill.engine.config import ModelConfig
from docmill.engine.errors import ModelError

SAMPLE_BYTES = 1 << 20  # of each weight file's start (its table of tensors) and end


def resolve_model(config: ModelConfig) -> str:
    """Folder of the model, or its Hugging Face name where vLLM is to fetch it. Raises `ModelError` with the remedy."""
    if config.source == "demo":
        return str(resources.files("docmill.data.demo") / "model")
    looks_like_path = config.source.startswith((".", "/", "~")) or config.source.count("/") != 1
    folder = Path(os.path.expanduser(config.source))
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                config.source, "the folder has no config.json; expected a Hugging Face checkpoint: config.json, the "
                "tokenizer's files and *.safetensors"
            )  # fmt: skip
        return str(folder)
    if looks_like_path:
        raise ModelError(
            config.source, "no such folder. `model.source` takes the path of a Hugging Face checkpoint, a name as on "
            "huggingface.co (owner/model), or `demo` for the bundled model"
        )  # fmt: skip
    return config.source


def context_of(config: ModelConfig) -> int:
    """Tokens of prompt and answer that the model was made for. Raises `ModelError` where its files are not here."""
    folder = Path(resolve_model(config))
    try:
        settings = json.loads((folder / "config.json").read_text())
        return int(settings.get("text_config", settings)["max_position_embeddings"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(
            config.source,
            "its context is not known before it has been loaded once: run the job, or let `docmill plan` measure",
        ) from error


def is_quantised(model: str) -> bool:
    """Whether the checkpoint says so of itself. One that is not in a folder here may be."""
    return not (Path(model) / "config.json").is_file() or _quantization(model) is not None


def has_packed_weights(model: str) -> bool:
    """Whether the checkpoint has layers of 4-bit weights in compressed-tensors' packing. False where it is not here."""
    config = _quantization(model) or {}
    groups = config.get("config_groups", {}).values()
    parts = [config, *(group for group in groups if isinstance(group, dict))]
    return any(part.get("format") == "pack-quantized" for part in parts)


def _quantization(model: str) -> dict[str, Any] | None:
    path = Path(model) / "config.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    config: dict[str, Any] | None = settings.get(
        "quantization_config", settings.get("text_config", {}).get("quantization_config")
    )
    return config


def fingerprint(model: str, revision: str | None) -> str:
    """16 hex digits that change when the model's files do.

    Small files count whole; of weight files the size, the start and the end, so that a 100 GB checkpoint costs
    milliseconds. A Hugging Face name counts with its revision: pin it.
    """
    digest = xxhash.xxh3_64()
    folder = Path(model)
    if not folder.is_dir():
        digest.update(f"{model}@{revision}".encode())
        return digest.hexdigest()
    for path in sorted(folder.rglob("*")):
        if path.suffix not in {".json", ".safetensors", ".bin", ".model", ".jinja", ".txt"}:
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}|{size}|".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(SAMPLE_BYTES))
            if size > 2 * SAMPLE_BYTES:
                stream.seek(-SAMPLE_BYTES, os.SEEK_END)
            digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()
