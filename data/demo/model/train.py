"""Trains the demo model: a Qwen3-shaped model of about 3M parameters that knows the demo corpus and our prompts.

    python data/demo/model/train.py --minutes 60 --compile --out data/demo/model
    python data/demo/model/train.py --evaluate-only --out data/demo/model

It stands above all layers and is no part of the package. Two things make it fast enough for two CPU cores:
all tasks of a document share one forward pass over it (as in our prompts, by a mask), and Muon steps.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from network import DemoModel, Shape
from prompts import DemoPrompts
from rows import Batch, Rows, collate
from safetensors.torch import load_file, save_file
from tokenizer_training import build_tokenizer, save_tokenizer
from tokenizers import Tokenizer
from torch import Tensor, nn

# Documents of these seeds are never trained on.
EVALUATION_SEEDS = (900_001, 900_002)

# How much the pointer heads' attention counts beside the answers.
POINTER_WEIGHT = 0.3


class Muon:
    """Orthogonalised momentum for the matrices (Jordan 2024), all of one size at once, in float32."""

    def __init__(self, parameters: list[nn.Parameter], momentum: float = 0.95) -> None:
        groups: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault(parameter.shape, []).append(parameter)
        self.groups = list(groups.values())
        self.buffers = [torch.zeros(len(group), *group[0].shape) for group in self.groups]
        self.momentum = momentum

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            gradient = torch.stack([parameter.grad for parameter in group])
            buffer.lerp_(gradient, 1 - self.momentum)
            update = gradient.lerp(buffer, self.momentum)
            rows, columns = update.shape[1:]
            update = update.mT if rows > columns else update
            update = update / (update.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
            for _ in range(5):
                gram = update @ update.mT
                update = 3.4445 * update + (-4.7750 * gram + 2.0315 * gram @ gram) @ update
            update = update.mT if rows > columns else update
            scale = lr * max(1.0, rows / columns) ** 0.5
            for parameter, change in zip(group, update, strict=True):
                parameter.add_(change, alpha=-scale)


def losses(model: DemoModel, batch: Batch, digit_ids: Tensor) -> tuple[Tensor, Tensor]:
    """How wrong the answers are, and how little the pointer heads look at the right sentence."""
    hidden, looks = model(batch.ids, batch.positions, batch.mask)
    logits = hidden.flatten(0, 1)[batch.where] @ model.embed_tokens.weight.T
    answers = F.cross_entropy(logits, batch.targets, reduction="none")
    # Digits are what a small model gets wrong: count them twice.
    weights = batch.weights * (1.0 + torch.isin(batch.targets, digit_ids))
    answer_loss = (answers * weights).sum() / weights.sum()
    if not len(batch.pointers):
        return answer_loss, torch.zeros(())
    row, place, *ends = batch.pointers.unbind(dim=1)
    here = torch.arange(batch.ids.shape[1])
    misses = []
    for look, start, end in zip(looks, ends[::2], ends[1::2], strict=True):
        inside = (here >= start[:, None]) & (here < end[:, None])  # [translated tokens, length]
        misses.append(-((look[row, place] * inside).sum(dim=1) + 1e-4).log().mean())
    return answer_loss, torch.stack(misses).mean()


def learning_rate(progress: float) -> float:
    """Share of the full rate: full for 45 % of the way, then straight down to nearly nothing."""
    return 1.0 if progress < 0.45 else max(0.01, (1.0 - progress) / 0.55)


def train(model: DemoModel, prompts: DemoPrompts, arguments: argparse.Namespace) -> None:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=arguments.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    progress = [arguments.start_at]
    rows = Rows(prompts, arguments.seed, arguments.slot_share, arguments.long_share)
    batches = rows.batches(arguments.batch_tokens, progress)
    digit_ids = torch.tensor(prompts.digit_ids)
    start = last_save = time.monotonic()
    smoothed, pointed, num_tokens, step = 0.0, 0.0, 0, 0
    while progress[0] < 1.0:
        batch = collate(next(batches))
        loss, pointer_loss = losses(model, batch, digit_ids)
        (loss + POINTER_WEIGHT * pointer_loss).backward()
        rate = learning_rate(progress[0]) * min(1.0, (step + 1) / 60)
        muon.step(arguments.muon_lr * rate)
        adam.param_groups[0]["lr"] = arguments.adam_lr * rate
        adam.step()
        model.zero_grad(set_to_none=True)
        step += 1
        num_tokens += batch.ids.numel()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                average[name].lerp_(tensor, 1 - min(0.99, step / (step + 20)))
        smoothed = loss.item() if step == 1 else 0.97 * smoothed + 0.03 * loss.item()
        pointed = pointer_loss.item() if step == 1 else 0.97 * pointed + 0.03 * pointer_loss.item()
        minutes = (time.monotonic() - start) / 60
        done = step / arguments.steps if arguments.steps else minutes / arguments.minutes
        progress[0] = arguments.start_at + (1.0 - arguments.start_at) * done
        if step % 25 == 0:
            speed = num_tokens / minutes / 60
            print(
                f"step {step} progress {progress[0]:.3f} minutes {minutes:.1f} tokens/s {speed:.0f}", end=" "
            )
            print(f"loss {smoothed:.4f} pointer {pointed:.4f}", flush=True)
        if time.monotonic() - last_save > 60 * arguments.save_minutes:
            last_save = time.monotonic()
            save(model, average, prompts, arguments.out)
            print(f"saved {arguments.out}", flush=True)
    final = average if arguments.keep_average else model.state_dict()
    save(model, {name: tensor.detach() for name, tensor in final.items()}, prompts, arguments.out)


def save(model: DemoModel, state: dict[str, Tensor], prompts: DemoPrompts, out: Path) -> None:
    """Writes weights, configuration and tokenizer; readers see the old weights or the new ones."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": tensor.to(torch.bfloat16).contiguous() for name, tensor in state.items()}
    save_file(weights, out / "model.safetensors.new", metadata={"format": "pt"})
    (out / "model.safetensors.new").chmod(0o644)  # safetensors writes for its owner only
    (out / "model.safetensors.new").replace(out / "model.safetensors")
    eos, pad = prompts.end_id, prompts.pad_id
    config = model.shape.config(eos_token_id=eos, pad_token_id=pad)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"eos_token_id": eos, "pad_token_id": pad, "do_sample": False, "max_new_tokens": 640}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save_tokenizer(prompts.tokenizer, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=0, help="overrides --minutes: repeatable")
    parser.add_argument("--batch-tokens", type=int, default=4500)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.02)
    parser.add_argument("--save-minutes", type=float, default=10.0)
    parser.add_argument("--keep-average", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--resume", type=Path, help="folder with weights to start from")
    parser.add_argument(
        "--slot-share", type=float, default=0.3, help="of documents cut to sentences with slots"
    )
    parser.add_argument("--long-share", type=float, default=0.3, help="of short documents left out")
    parser.add_argument(
        "--start-at", type=float, default=0.0, help="share of the schedule that --resume has done"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--compile", action="store_true", help="a third faster; needs a C++ compiler")
    parser.add_argument("--evaluate-only", action="store_true")
    parser.add_argument("--num-evaluated", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    if not arguments.evaluate_only:
        resume = arguments.resume
        prompts = DemoPrompts(
            Tokenizer.from_file(str(resume / "tokenizer.json")) if resume else build_tokenizer()
        )
        shape = Shape(vocab_size=prompts.vocab_size, num_layers=arguments.num_layers)
        model = DemoModel(shape)
        if arguments.resume:
            weights = load_file(arguments.resume / "model.safetensors")
            model.load_state_dict({name.removeprefix("model."): w.float() for name, w in weights.items()})
        print(
            f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {shape.vocab_size}",
            flush=True,
        )
        if arguments.compile:
            for layer in model.layers:
                layer.compile(dynamic=True)
        train(model, prompts, arguments)
    from evaluation import evaluate  # transformers: only where it is needed

    evaluate(arguments.out, seeds=EVALUATION_SEEDS, num_documents=arguments.num_evaluated)


if __name__ == "__main__":
    main()
