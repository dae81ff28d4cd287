"""`model.compress` of a job's YAML: which smaller model takes the place of the one that `model.source` names."""

from __future__ import annotations

from typing import Annotated, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field, model_validator

from docmill.engine.compression.formats import Format

Recipe = Literal["auto", "int8", "fp8", "w4a16", "prune", "trim"]
RECIPE_OF: dict[str, Recipe] = {
    "formats": "auto",
    "ffn_share": "prune",
    "head_share": "prune",
    "layers": "prune",
    "heal_steps": "prune",
    "keep_texts": "trim",
}
# Which shares of the divergence of all layers in the smallest formats `auto` allows, one try after the other.
AUTO_BUDGETS = (1.0, 0.5, 0.25, 0.125)
FEWEST_DOCUMENTS = 20  # in each half of a sample


class CompressConfig(BaseModel):
    """How to make it, and what it may cost. It is made once and used by every run, until something here changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    recipe: Recipe = "auto"
    """auto: 8 bits where a layer bears them. int8, fp8, w4a16: in all layers. prune: narrower layers. trim: a smaller
    vocabulary."""
    max_drop: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Of a task's quality, from 0 to 1: what it may lose on documents that it was not made on, with 95 % certainty."""
    sample: Annotated[int, Field(ge=2 * FEWEST_DOCUMENTS)] = 1000
    """Documents; on one half the model is made, on the other it is judged."""
    references: dict[str, str] = Field(default_factory=dict)
    """Task -> column of the source with right answers. Without one, those of the source model are the right ones."""
    formats: Annotated[tuple[Format, ...], Field(min_length=1)] | None = None
    """auto: what it chooses from for each group of layers; null: 8 bits, FP8 or INT8 as the device has it."""
    ffn_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """prune: of the width of all feed-forward layers, what is taken out."""
    head_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """prune: of the attention heads."""
    layers: Annotated[int, Field(ge=0)] = 0
    """prune: whole layers."""
    heal_steps: Annotated[int, Field(ge=0)] = 100
    """prune: of distillation, about 4,000 tokens each; 0: none."""
    keep_texts: Annotated[str, Field(min_length=1)] | None = None
    """trim: a folder of Parquet files with texts (the job's text column) whose tokens stay, beside those of the day."""
    out: Annotated[str, Field(min_length=1)] | None = None
    """Folder or bucket of the models that were made, of this job alone; null: below the job's output."""

    @model_validator(mode="after")
    def _settings_of_its_recipe(self) -> CompressConfig:
        fields = type(self).model_fields
        for name, recipe in RECIPE_OF.items():
            if getattr(self, name) != fields[name].default and self.recipe != recipe:
                raise ValueError(f"{name}: only with `recipe: {recipe}`; this is {self.recipe!r}")
        return self

    @property
    def num_attempts(self) -> int:
        """How many models may be made and judged, of which the first that holds is published."""
        return len(AUTO_BUDGETS) if self.recipe == "auto" else 1

    def key(self, source_fingerprint: str) -> str:
        """16 hex digits: of the source model and of all that decides what is made of it."""
        settings = self.model_dump_json(exclude={"out"})
        return xxhash.xxh3_64_hexdigest(f"{source_fingerprint}|{settings}".encode())
