"""What vLLM is told of the checkpoint and the device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.errors import EngineConfigError
from docmill.engine.vllm_settings import engine_args

PACKED_GROUP = {
    "config_groups": {"group_0": {"format": "int-quantized"}, "group_1": {"format": "pack-quantized"}}
}


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        (None, "float32"),
        ({"format": "int-quantized", "config_groups": {}}, "float32"),
        ({"format": "pack-quantized"}, "bfloat16"),  # vLLM's kernel for them has no float32
        ({"format": "mixed-precision"} | PACKED_GROUP, "bfloat16"),
    ],
)
def test_on_a_cpu_the_dtype_is_the_fastest_that_the_checkpoint_allows(
    tmp_path: Path, quantization: dict[str, object] | None, expected: str
) -> None:
    settings = {} if quantization is None else {"quantization_config": quantization}
    (tmp_path / "config.json").write_text(json.dumps(settings))

    def dtype(device: str, **config: str) -> object:
        return engine_args(
            EngineConfig.model_validate(config), ModelConfig(), source=str(tmp_path), device=device
        )["dtype"]

    assert dtype("cpu") == expected
    assert dtype("cpu", dtype="bfloat16") == "bfloat16"
    assert dtype("cuda") == "auto"
    if expected == "bfloat16":
        with pytest.raises(EngineConfigError, match="4-bit weights.*Leave `dtype` away"):
            dtype("cpu", dtype="float32")
