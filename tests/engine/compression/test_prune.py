"""Smaller dense models: what goes, what makes up for it, and what comes out."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from docmill.data.demo import LABELS, demo_documents
from docmill.engine.compression import heal
from docmill.engine.compression.checkpoint import load_model
from docmill.engine.compression.divergence import Reference, final_hidden
from docmill.engine.compression.errors import UnfitError
from docmill.engine.compression.heal import held_out_tenth
from docmill.engine.compression.prune import PruneSettings, prune
from docmill.engine.compression.sequences import AskedSequence, batches
from docmill.engine.compression.trim import needed_tokens, trim
from docmill.engine.config import EngineConfig, ModelConfig
from docmill.engine.model_files import resolve_model
from docmill.engine.open_engine import start_engine
from docmill.engine.tokenizer import ModelTokenizer
from docmill.engine.types import Request, Sampling
from docmill.ops.prompts import Prompts
from docmill.ops.tasks.summarize import Summarize

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

DEMO = Path(resolve_model(ModelConfig()))
LABEL = "Which label fits the document best? Answer with one label only."
END = 2  # the demo model's end of a turn


def ignore(_what: str, _share: float) -> None:
    pass


def asked(seed: int, num_documents: int) -> list[AskedSequence]:
    """The demo job's three questions about documents of at most 250 characters, with the right answers."""
    tokenizer = ModelTokenizer(ModelConfig())
    prompts = Prompts(tokenizer)
    questions = (
        (Summarize(kind="summarize").instruction.replace("{language}", "English"), "reference_summary"),
        ("Translate the document into English. Answer with the translation only.", "reference_translation"),
        (f"{LABEL} Labels: {', '.join(LABELS)}.", "reference_label"),
    )  # fmt: skip
    found = []
    for document in demo_documents(seed=seed, num_documents=num_documents):
        if len(document.text) > 250:
            continue
        ids = tokenizer.encode_data([document.text])[0]
        for instruction, reference in questions:
            prompt = prompts.render(document.text, ids, instruction)
            answer = tokenizer.encode_data([getattr(document, reference)])[0]
            found.append(AskedSequence((*prompt, *answer, END), len(prompt)))
    return found


@pytest.fixture(scope="module")
def sample() -> list[AskedSequence]:
    return asked(seed=41, num_documents=60)


@pytest.fixture(scope="module")
def pruned(sample: list[AskedSequence], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of the FFN's width, not healed."""
    out = tmp_path_factory.mktemp("pruned") / "model"
    prune(DEMO, out, PruneSettings(heal_steps=0), sample, tell=ignore)
    return out


def right_tokens(folder: Path, sequences: list[AskedSequence]) -> float:
    """The share of the answers' tokens that the model finds the likeliest, given all before."""
    model, right, total = load_model(folder), 0, 0
    with torch.inference_mode():
        for batch in batches(sequences):
            logits = model.lm_head(final_hidden(model, batch)[batch.answer_mask])
            wanted = batch.token_ids.roll(-1, 1)[batch.answer_mask]
            right, total = right + int((logits.argmax(-1) == wanted).sum()), total + len(wanted)
    return right / total


def test_a_quarter_of_the_ffn_goes_and_answers_about_other_documents_stay_right(pruned: Path) -> None:
    config = json.loads((pruned / "config.json").read_text())
    assert config["intermediate_size"] == 384
    weights = load_file(pruned / "model.safetensors")
    assert weights["model.layers.3.mlp.down_proj.weight"].shape == (192, 384)
    fresh = asked(seed=42, num_documents=30)
    assert right_tokens(DEMO, fresh) > 0.99
    assert right_tokens(pruned, fresh) > right_tokens(DEMO, fresh) - 0.02


def test_what_healing_tells_is_what_the_checkpoint_does(sample: list[AskedSequence], tmp_path: Path) -> None:
    settings = PruneSettings(ffn_share=0.5, head_share=0.17, layers=1, heal_steps=6)
    result = prune(DEMO, tmp_path / "out", settings, sample, tell=ignore)
    assert result.healing.divergence_after < 0.8 * result.healing.divergence_before
    model = load_model(tmp_path / "out")
    config = model.config
    assert (config.num_hidden_layers, config.num_key_value_heads, config.num_attention_heads) == (3, 5, 5)
    assert (config.intermediate_size, config.head_dim, len(config.layer_types)) == (256, 32, 3)
    assert result.num_weights_after == model.num_parameters() < result.num_weights_before
    assert [len(cut.ffn_channels) for cut in result.layers if not cut.dropped] == [256, 256, 256]
    reference = Reference(load_model(DEMO), held_out_tenth(sample)[1])
    assert reference.divergence(model) == pytest.approx(result.healing.divergence_after, rel=0.05)  # 16 bits


def small_llama(folder: Path) -> tuple[LlamaForCausalLM, list[AskedSequence]]:
    """Random weights, four groups of two heads, biases everywhere; sequences of random tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, head_dim=8, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    model.save_pretrained(folder)
    draw = random.Random(1)
    return model, [AskedSequence(tuple(draw.choices(range(60), k=24)), 12) for _ in range(90)]


def test_the_same_sequences_give_the_same_weights(tmp_path: Path) -> None:
    _, sequences = small_llama(tmp_path / "source")
    settings = PruneSettings(ffn_share=0.25, layers=1, heal_steps=5)
    one, two = (
        prune(tmp_path / "source", tmp_path / name, settings, sequences, tell=ignore) for name in "ab"
    )
    assert one == two
    weights = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_does_nothing_goes_and_nothing_changes(tmp_path: Path) -> None:
    """Grouped heads with biases: two groups that o_proj does not read, FFN channels likewise, an idle layer."""
    model, sequences = small_llama(tmp_path / "source")
    idle = (3, 10, 11, 12, 20, 33, 50, 63, *range(40, 48))
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            layer.self_attn.o_proj.weight[:, 16:48] = 0.0  # two in the middle of four groups of two heads
            layer.mlp.down_proj.weight[:, idle] = 0.0
            if number == 2:
                for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                    part.weight.zero_()
                    part.bias.zero_()
    model.save_pretrained(tmp_path / "source")
    settings = PruneSettings(ffn_share=0.25, head_share=0.5, layers=1, heal_steps=0)
    result = prune(tmp_path / "source", tmp_path / "out", settings, sequences, tell=ignore)
    assert [cut.dropped for cut in result.layers] == [False, False, True, False]
    for cut in result.layers:
        assert (cut.kv_heads, cut.ffn_channels) == (
            ((), ()) if cut.dropped else ((1, 2), tuple(sorted(idle)))
        )
    with pytest.raises(UnfitError, match="6 heads would be left, and transformers says"):
        prune(tmp_path / "source", tmp_path / "no", PruneSettings(head_share=0.25), sequences, tell=ignore)
    ids = torch.tensor([sequences[0].token_ids])
    with torch.inference_mode():
        expected, found = (
            load_model(tmp_path / "source")(ids).logits,
            load_model(tmp_path / "out")(ids).logits,
        )
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.02)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layers": 4}, "layers: 4 of 4 that the model has"),
        ({"head_share": 0.01}, "is none of them; one is 0.167"),
        ({"head_share": 0.99}, "is all of them"),
        ({"ffn_share": 0.01}, "is none of it; one step is 0.125"),
        ({"ffn_share": 0.99}, "is all of it"),
        ({"ffn_share": 0.0}, "nothing is to go"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_model_are_said(
    sample: list[AskedSequence], tmp_path: Path, settings: dict[str, float], said: str
) -> None:
    with pytest.raises(UnfitError, match=said):
        prune(DEMO, tmp_path / "out", PruneSettings(**settings), sample, tell=ignore)
    assert not (tmp_path / "out").exists()


def test_impossible_settings_too_few_sequences_and_a_full_folder_are_said(
    sample: list[AskedSequence], tmp_path: Path
) -> None:
    for wrong in ({"ffn_share": 1.0}, {"head_share": -0.1}, {"layers": -1}, {"width": 0.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PruneSettings(**wrong)
    with pytest.raises(UnfitError, match="at least 40 sequences, and has 39"):
        prune(DEMO, tmp_path / "out", PruneSettings(), sample[:39], tell=ignore)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="holds files already"):
        prune(DEMO, tmp_path, PruneSettings(), sample, tell=ignore)


def test_no_room_to_heal_is_said_before_anything_is_pruned(
    sample: list[AskedSequence], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heal, "LEARNING_BYTES", 1 << 40)
    told: list[str] = []
    with pytest.raises(UnfitError, match="set heal_steps to 0"):
        prune(DEMO, tmp_path / "out", PruneSettings(), sample, tell=lambda what, _: told.append(what))
    assert not told


def test_the_gradient_in_pieces_is_that_of_the_mean_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    head, expected, found = torch.randn(50, 16), torch.randn(23, 16), torch.randn(23, 16, requires_grad=True)
    answers = [(hidden @ head.T).log_softmax(-1) for hidden in (found, expected)]
    torch.nn.functional.kl_div(*answers, reduction="batchmean", log_target=True).backward()
    monkeypatch.setattr(heal, "HEAD_NUMBERS", 250)
    torch.testing.assert_close(heal.kl_gradient(expected, found, head), found.grad)


def test_room_is_counted_for_activations_and_answers(tmp_path: Path) -> None:
    model, _ = small_llama(tmp_path)
    few, many = (
        heal.needed_bytes(model, list(batches([AskedSequence((3,) * length, 2)]))) for length in (20, 2000)
    )
    weights = 16 * sum(weight.numel() for weight in model.model.layers.parameters())
    assert many > 50 * (few - weights)


def test_neighbours_are_held_out_together(sample: list[AskedSequence]) -> None:
    learned, held_out = held_out_tenth(sample)
    assert sorted(one.token_ids for one in [*learned, *held_out]) == sorted(one.token_ids for one in sample)
    assert 0.05 * len(sample) < len(held_out) < 0.15 * len(sample)


@pytest.mark.vllm
@pytest.mark.slow
def test_a_checkpoint_pruned_and_then_trimmed_answers_in_vllm_as_in_transformers(
    sample: list[AskedSequence], pruned: Path, tmp_path: Path
) -> None:
    counts = {one: 1 for sequence in sample for one in sequence.token_ids}
    keep = needed_tokens(pruned, counts)
    if len(keep) % 64 == 0:
        keep = needed_tokens(pruned, counts | {min(set(range(4096)) - keep): 1})
    result = trim(pruned, tmp_path / "out", keep, tell=ignore)
    assert result.num_rows_after % 64, "a number of rows that vLLM has to pad"
    new_ids = {old: new for new, old in enumerate(result.old_ids)}
    prompts = [one.token_ids[: one.num_prompt_tokens] for one in sample if one.num_prompt_tokens < 100][:24]
    model = load_model(pruned)
    expected = []
    for prompt in prompts:
        answer = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[
            0, len(prompt) :
        ].tolist()
        expected.append(tuple(answer[: answer.index(END)] if END in answer else answer))
    # In a process of its own: a second vLLM in this one would take the session's engine with it.
    engine = start_engine(ModelConfig(source=str(tmp_path / "out")), EngineConfig(max_model_len=512))
    try:
        assert engine.wait_until_loaded(120)
        found: dict[str, tuple[int, ...]] = {}
        for number, prompt in enumerate(prompts):
            engine.submit(Request(str(number), [new_ids[one] for one in prompt], Sampling(12)))
        while len(found) < len(prompts):
            for completion in engine.completions(timeout_seconds=60):
                assert completion.error is None
                answer = [result.old_ids[one] for one in completion.token_ids if one != new_ids[END]]
                found[completion.request_id] = tuple(answer)
    finally:
        engine.close()
    assert [found[str(number)] for number in range(len(prompts))] == expected
