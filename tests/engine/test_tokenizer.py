"""The model's tokenizer: what stands in a prompt beside the document."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docmill.data import demo
from docmill.engine import tokenizer as tokenizers
from docmill.engine.config import ModelConfig
from docmill.engine.tokenizer import ModelTokenizer

TEMPLATE = "{{ strftime_now('%Y-%m-%d') }} {{ note }} {{ messages[1]['content'] }}"


def test_a_template_that_tells_the_date_gives_the_same_prompt_every_day(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(Path(demo.__file__).parent / "model", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = ModelTokenizer(
        ModelConfig(source=str(folder), chat_template_kwargs={"note": "as configured"})
    )
    assert tokenizer.render_chat("system", "user") == "2026-01-01 as configured user"


@pytest.mark.parametrize("tokenizer_class", sorted(tokenizers.PLAIN_TOKENIZER_CLASSES))
@pytest.mark.parametrize("model_type", sorted(tokenizers.PLAIN_MODEL_TYPES))
def test_the_class_taken_without_asking_is_the_one_that_transformers_takes(
    tmp_path: Path, model_type: str, tokenizer_class: str
) -> None:
    from transformers import AutoTokenizer

    folder = _model(tmp_path, {"model_type": model_type}, {"tokenizer_class": tokenizer_class})
    ours, theirs = ModelTokenizer(ModelConfig(source=str(folder))), AutoTokenizer.from_pretrained(folder)
    assert type(ours._chat) is type(theirs)
    assert ours._chat.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours._chat.special_tokens_map == theirs.special_tokens_map
    assert ours._chat.chat_template == theirs.chat_template is not None


@pytest.mark.parametrize(
    ("model", "tokenizer"),
    [
        ({"model_type": "qwen2"}, {}),
        ({}, {"tokenizer_class": "Qwen2Tokenizer"}),
        ({}, {"auto_map": {"AutoTokenizer": [None, "own.Tokenizer"]}}),
    ],
)
def test_transformers_chooses_for_all_others(tmp_path: Path, model: dict, tokenizer: dict) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    assert tokenizers._tokenizer_class(str(_model(tmp_path / "a", model, tokenizer))) is AutoTokenizer
    assert tokenizers._tokenizer_class(str(_model(tmp_path / "b", {}, {}))) is PreTrainedTokenizerFast


def test_a_driver_of_the_demo_model_does_without_torch() -> None:
    code = """
import sys
from docmill.engine.config import ModelConfig
from docmill.engine.tokenizer import ModelTokenizer
assert ModelTokenizer(ModelConfig()).render_chat("a", "b")
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def _model(folder: Path, model: dict, tokenizer: dict) -> Path:
    """The demo model's files without its weights, with some settings changed."""
    shutil.copytree(
        Path(demo.__file__).parent / "model",
        folder,
        ignore=shutil.ignore_patterns("*.safetensors"),
        dirs_exist_ok=True,
    )
    for name, changes in (("config.json", model), ("tokenizer_config.json", tokenizer)):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder
