"""Which kernels an engine is to use, by the job's setting, the device and the binary."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from docmill.engine import kernel_choice
from docmill.engine.config import KERNELS, EngineConfig
from docmill.engine.kernel_choice import NO_GPU, KernelChoice, choose_kernels
from docmill.kernels._load import Implementation

CUDA = Implementation("cuda", "_C.123.so on 1 GPU(s)", "_C.123.so")
NATIVE = Implementation("native", "no binary; build it: python -m docmill.kernels.build")


@pytest.mark.parametrize(
    ("settings", "device", "serves", "wanted"),
    [
        # A GPU with the binary: all of them.
        ({}, "cuda", CUDA, KernelChoice(KERNELS, implementation="_C.123.so")),
        # Without the binary a twin would be slower than what vLLM has.
        ({}, "cuda", NATIVE, KernelChoice(reasons=dict.fromkeys(KERNELS, NATIVE.reason))),
        ({}, "cpu", NATIVE, KernelChoice(reasons=dict.fromkeys(KERNELS, NO_GPU))),
        ({"kernels": "off"}, "cuda", CUDA, KernelChoice()),
        # Named: anywhere.
        ({"kernels": KERNELS}, "cpu", NATIVE, KernelChoice(KERNELS, implementation="native")),
        (
            {"kernels": ["silu_mul_quant"]},
            "cuda",
            CUDA,
            KernelChoice(
                ("silu_mul_quant",), {"rms_norm_quant": "not named in `engine.kernels`"}, "_C.123.so"
            ),
        ),
        # vLLM has room for one worker class.
        (
            {"kernels": KERNELS, "extra": {"worker_cls": "my.Worker"}},
            "cuda",
            CUDA,
            KernelChoice(reasons=dict.fromkeys(KERNELS, "`engine.extra.worker_cls` takes their place")),
        ),
    ],
)
def test_which_kernels_an_engine_is_to_use(
    settings: dict[str, object],
    device: str,
    serves: Implementation,
    wanted: KernelChoice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel_choice, "kernel_implementation", lambda: serves)
    assert choose_kernels(EngineConfig.model_validate(settings), device=device) == wanted


@pytest.mark.parametrize(
    "settings",
    [{"kernels": ["flash"]}, {"kernels": "on"}, {"quantization": "int4"}, {"kernels": ["min_hash"]}],
)
def test_unknown_names_are_errors_that_name_the_known_ones(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        EngineConfig.model_validate(settings)
    known = "'int8' or 'fp8'" if "quantization" in settings else "'rms_norm_quant' or 'silu_mul_quant'"
    if settings.get("kernels") == "on":
        known = "'auto' or 'off'"
    assert known in str(caught.value)
