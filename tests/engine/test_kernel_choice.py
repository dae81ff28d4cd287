"""Which kernels an engine is to use, by the job's setting, the device and the binary."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from docmill.engine import kernel_choice
from docmill.engine.config import KERNELS, EngineConfig
from docmill.engine.kernel_choice import NO_GPU, NOT_QUANTISED, SEVERAL_GPUS, KernelChoice, choose_kernels
from docmill.engine.model_files import is_quantised
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
        ({"kernels": KERNELS}, "cuda", NATIVE, KernelChoice(reasons=dict.fromkeys(KERNELS, NATIVE.reason))),
        # vLLM has a larger kernel around the norm there.
        (
            {"tensor_parallel_size": 2},
            "cuda",
            CUDA,
            KernelChoice(("silu_mul_quant",), {"rms_norm_quant": SEVERAL_GPUS}, "_C.123.so"),
        ),
        (
            {"tensor_parallel_size": 2, "kernels": KERNELS},
            "cuda",
            CUDA,
            KernelChoice(KERNELS, implementation="_C.123.so"),
        ),
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
    ("settings", "taken"),
    [
        ({}, False),
        ({"quantization": "fp8"}, True),
        ({"extra": {"quantization": "fp8_per_channel"}}, True),
        ({"kernels": KERNELS}, True),  # then the loaded model says why not
    ],
)
def test_an_engine_without_eight_bits_is_left_alone(
    settings: dict[str, object], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is put into its settings, vLLM compiles its model anew."""
    monkeypatch.setattr(kernel_choice, "kernel_implementation", lambda: CUDA)
    choice = choose_kernels(EngineConfig.model_validate(settings), device="cuda", is_quantised=False)
    assert choice.ops == (KERNELS if taken else ())
    assert set(choice.reasons.values()) == (set() if taken else {NOT_QUANTISED})


def test_a_checkpoint_says_whether_it_is_quantised(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"text_config": {"hidden_size": 8}}')
    assert not is_quantised(str(tmp_path))
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "compressed-tensors"}}')
    assert is_quantised(str(tmp_path))
    assert is_quantised("someone/model"), "it may be"


@pytest.mark.parametrize("written", ["off", "'off'", "false"])
def test_off_may_be_written_as_yaml_reads_it(written: str) -> None:
    assert EngineConfig.model_validate(yaml.safe_load(f"kernels: {written}")).kernels == "off"


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
