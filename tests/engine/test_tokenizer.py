"""The model's tokenizer: what stands in a prompt beside the document."""

from __future__ import annotations

import shutil
from pathlib import Path

from docmill.data import demo
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
