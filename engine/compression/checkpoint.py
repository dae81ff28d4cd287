"""Opening a Hugging Face checkpoint with torch, and writing one that unmodified vLLM loads."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from docmill.engine.config import ModelConfig
from docmill.engine.errors import ModelError
from docmill.engine.model_files import is_quantised, resolve_model
from docmill.engine.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

# Their decoder layers have the same parts by the same names: q, k, v, o, gate, up and down.
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".gguf",
    ".index.json",
)  # written anew, or not of use to vLLM
FETCHED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
CONSOLIDATED = (
    "consolidated*"  # the weights once more in Mistral's own layout, which transformers does not read
)


def load_model(folder: Path, *, dtype: str = "auto") -> PreTrainedModel:
    """The model, ready to compute: without dropout, on the GPU where there is one.

    `auto` is float32 on a CPU and the checkpoint's own on a GPU. Raises `ModelError`.
    """
    quiet_libraries()
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # of reading and writing weights, in the middle of ours
    check_supported(folder)
    on_gpu = torch.cuda.is_available()
    chosen = ("auto" if on_gpu else torch.float32) if dtype == "auto" else getattr(torch, dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=chosen, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(str(folder), f"cannot be opened with transformers: {error}") from error
    return model.eval().to("cuda" if on_gpu else "cpu")


def check_supported(folder: Path) -> None:
    """Raises `ModelError` where there is no way to compress this checkpoint, with what there is."""
    try:
        settings = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(str(folder), f"its config.json cannot be read: {error}") from error
    names = settings.get("architectures") or ["none that config.json names"]
    if names[0] not in ARCHITECTURES:
        raise ModelError(
            str(folder), f"docmill compresses {', '.join(ARCHITECTURES)}; this is {names[0]}"
        )  # fmt: skip
    if is_quantised(str(folder)):
        raise ModelError(
            str(folder), "is quantised already; compress the checkpoint that it was made of, in 16 bits"
        )  # fmt: skip


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Those of the decoder layers by their names in the model, in the order of the model; not the head."""
    from torch import nn

    head = model.get_output_embeddings()
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer is not head
    }


def save_model(model: PreTrainedModel, source: Path, out: Path) -> None:
    """Weights and config of `model`, in the dtype that `source` says, with tokenizer and template of `source`.

    `out` is made; it must not hold anything. Files that `out` has afterwards are all that vLLM needs.
    """
    import torch

    check_empty(out)
    write_checkpoint(model.to(getattr(torch, stored_dtype(source))), source, out)


def write_checkpoint(
    model: PreTrainedModel, source: Path, out: Path, *, state: dict[str, Tensor] | None = None
) -> None:
    """Weights (`state`, else the model's own) and config as they are, with what lies beside those of `source`."""
    from transformers import GenerationConfig

    out.mkdir(parents=True, exist_ok=True)
    # transformers refuses to save some that it loads, and to save none; the source's own file counts, if it has one.
    model.generation_config = GenerationConfig()
    model.save_pretrained(out, state_dict=state)
    (out / "generation_config.json").unlink()
    copy_companions(source, out)


def check_empty(out: Path) -> None:
    """Raises FileExistsError where a checkpoint cannot be written; ask before computing one for minutes."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} holds files already; a checkpoint is written into an empty folder")


def copy_companions(source: Path, out: Path) -> None:
    """Tokenizer, template and what else lies beside the weights; not code, which nobody asked for."""
    for path in source.iterdir():
        if path.is_file() and not path.name.endswith((*WEIGHTS, ".py", ".md")) and path.name != "config.json":
            shutil.copyfile(path, out / path.name)


def free_memory() -> None:
    """Gives back what dropped models held, which vLLM's process needs: hooks and layers refer to each other."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def weight_bytes(folder: Path) -> int:
    """Of a checkpoint's weight files, those that are loaded."""
    files = set(folder.glob("*.safetensors"))
    files = files - set(folder.glob(CONSOLIDATED)) or files or set(folder.glob("*.bin"))
    return sum(path.stat().st_size for path in files)


def stored_dtype(folder: Path) -> str:
    """Name of the dtype that config.json gives for the weights; bfloat16 where it gives none."""
    settings = json.loads((folder / "config.json").read_text())
    return str(settings.get("dtype") or settings.get("torch_dtype") or "bfloat16")


def local_source(config: ModelConfig) -> Path:
    """Folder of the model that `source` names; one of Hugging Face is fetched, without code. Raises `ModelError`."""
    source = resolve_model(config.uncompressed)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(
            snapshot_download(
                source, revision=config.revision, allow_patterns=FETCHED, ignore_patterns=[CONSOLIDATED]
            )
        )
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(config.source, f"cannot be fetched from Hugging Face: {error}") from error
