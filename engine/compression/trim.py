"""A checkpoint without the tokens that a job never reads or writes: fewer rows of the embedding and of the head.

Small multilingual models spend up to a half of their weights on a vocabulary of which one language pair uses a tenth
(Ushio et al. 2023, arXiv 2305.15020). Rows are taken out and none is changed: the logits of tokens that stay are
equal to the bit. vLLM pads rows to its own multiple, so none is added here.

Weights are read and written file by file, and files without an embedding are copied.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docmill.engine.compression.checkpoint import check_empty, check_supported, copy_companions
from docmill.engine.compression.errors import UnfitError
from docmill.engine.compression.vocabulary import (
    Spec,
    indispensable,
    read_tokenizer,
    token_ids,
    trimmed,
    with_derivations,
)
from docmill.engine.errors import ModelError

MAP_FILE = "docmill_trim.json"
INDEX_FILE = "model.safetensors.index.json"
# The vocabulary once more, in older formats and by the old numbers; with tokenizer.json nobody needs them.
OLDER_FILES = ("vocab.json", "merges.txt", "added_tokens.json", "*.model", "*.tiktoken", "tekken.json")

_ID_KEY = re.compile(r"(^|_)token_ids?$")
_ID_LISTS = ("suppress_tokens", "begin_suppress_tokens")  # tokens that are gone may be left out of these


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What trimming did. Bytes are those of the embedding and, where it has its own, of the head."""

    num_rows_before: int
    num_rows_after: int
    num_bytes_before: int
    num_bytes_after: int
    old_ids: tuple[int, ...]  # of each new id; also in docmill_trim.json beside the weights


def needed_tokens(folder: Path, token_counts: Mapping[int, int]) -> set[int]:
    """Ids to keep so that texts of the tokens counted are cut as before, and every other text can still be encoded.

    These are the tokens seen, what BPE joins on its way to them, all single bytes, all added tokens,
    and those that the settings name (end of text, padding). Raises `ModelError`; `UnfitError` for ids there are not.
    """
    check_supported(folder)
    spec = read_tokenizer(folder)
    seen = {token_id for token_id, count in token_counts.items() if count}
    _check_exist(seen, _num_rows(folder))
    return with_derivations(spec, seen | _always_needed(folder, spec))


def trim(folder: Path, out: Path, keep: Iterable[int], *, tell: Callable[[str, float], None]) -> Trimmed:
    """Writes the checkpoint in `folder` with the rows `keep` alone into `out`, which must be empty.

    Ids keep their order. Raises `ModelError`; ValueError where `keep` lacks what `needed_tokens` adds.
    """
    check_empty(out)
    check_supported(folder)
    spec, num_rows = read_tokenizer(folder), _num_rows(folder)
    old_ids = tuple(sorted(set(keep)))
    _check_exist(old_ids, num_rows)
    missing = with_derivations(spec, {*old_ids, *_always_needed(folder, spec)}) - set(old_ids)
    if missing:
        texts = {number: text for text, number in token_ids(spec).items()}
        some = ", ".join(repr(texts.get(one, one)) for one in sorted(missing)[:5])
        raise ValueError(
            f"the tokens to keep lack {len(missing)} without which the tokenizer does not work, such as {some}; "
            "expected single bytes, added tokens and parts of longer tokens too: take what needed_tokens returns"
        )
    new_ids = {old: new for new, old in enumerate(old_ids)}
    _check_added(folder, spec, new_ids)
    out.mkdir(parents=True, exist_ok=True)
    tell("writing the tokenizer", 0.0)
    _write_settings(folder, out, new_ids)
    _write_json(out / "tokenizer.json", trimmed(spec, new_ids))
    _write_json(out / MAP_FILE, {"source_rows": num_rows, "old_ids": old_ids})
    before, after = _write_weights(
        folder, out, old_ids, num_rows, tell=lambda done: tell("writing the weights", done)
    )
    return Trimmed(num_rows, len(old_ids), before, after, old_ids)


def _write_settings(folder: Path, out: Path, new_ids: Mapping[int, int]) -> None:
    copy_companions(folder, out)
    for pattern in OLDER_FILES:
        for path in out.glob(pattern):
            path.unlink()
    config = _renumbered(_read_json(folder / "config.json"), new_ids)
    _write_json(out / "config.json", config | {"vocab_size": len(new_ids)})
    if (path := folder / "generation_config.json").is_file():
        _write_json(out / path.name, _renumbered(_read_json(path), new_ids))
    if (path := folder / "tokenizer_config.json").is_file():
        settings = _renumbered(_read_json(path), new_ids)
        if "added_tokens_decoder" in settings:
            settings["added_tokens_decoder"] = {
                str(new_ids[int(old)]): token
                for old, token in settings["added_tokens_decoder"].items()
                if int(old) in new_ids
            }
        _write_json(out / path.name, settings)


def _write_weights(
    folder: Path, out: Path, old_ids: tuple[int, ...], num_rows: int, *, tell: Callable[[float], None]
) -> tuple[int, int]:
    """Returns the bytes of all that has a row for each token, before and after."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    rows = torch.tensor(old_ids)
    before = after = 0
    index = _read_json(folder / INDEX_FILE) if (folder / INDEX_FILE).is_file() else None
    names = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
    for number, name in enumerate(names):
        if not (folder / name).is_file():
            raise ModelError(str(folder), f"has no {name}; trimming expects the weights as safetensors")
        with safe_open(folder / name, "pt") as file:
            if any(map(_has_a_row_each, file.keys())):
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
                for key in filter(_has_a_row_each, list(tensors)):
                    if len(tensors[key]) != num_rows:
                        raise ModelError(
                            str(folder),
                            f"{key} has {len(tensors[key])} rows, and config.json says {num_rows}",
                        )
                    before += tensors[key].nbytes
                    tensors[key] = tensors[key][rows]
                    after += tensors[key].nbytes
                save_file(tensors, out / name, metadata=file.metadata())
            else:
                shutil.copyfile(folder / name, out / name)
        (out / name).chmod(0o644)  # safetensors writes for its owner only
        tell((number + 1) / len(names))
    if not before:
        raise ModelError(str(folder), "its weights have no embed_tokens.weight")
    if index:
        index["metadata"] = index.get("metadata", {}) | {
            "total_size": index.get("metadata", {}).get("total_size", 0) - before + after
        }
        _write_json(out / INDEX_FILE, index)
    return before, after


def _has_a_row_each(name: str) -> bool:
    return name.endswith("embed_tokens.weight") or name == "lm_head.weight"


def _num_rows(folder: Path) -> int:
    return int(_read_json(folder / "config.json")["vocab_size"])


def _check_exist(ids: Iterable[int], num_rows: int) -> None:
    unknown = sorted(one for one in ids if not 0 <= one < num_rows)
    if unknown:
        raise UnfitError(
            f"{len(unknown)} token ids are not in the model's vocabulary of {num_rows}, such as {unknown[0]}"
        )


def _check_added(folder: Path, spec: Spec, new_ids: Mapping[int, int]) -> None:
    """Raises `ModelError` where a token that stays is in tokenizer_config.json alone: it would get another number."""
    if (path := folder / "tokenizer_config.json").is_file():
        added = {int(one) for one in _read_json(path).get("added_tokens_decoder", {})}
        if lost := added & new_ids.keys() - set(token_ids(spec).values()):
            raise ModelError(
                str(folder), f"its tokenizer_config.json adds a token {min(lost)}, and tokenizer.json has none of that "
                "number: save the tokenizer anew, so that both say the same"
            )  # fmt: skip


def _always_needed(folder: Path, spec: Spec) -> set[int]:
    ids = indispensable(spec)
    if max(ids) >= (num_rows := _num_rows(folder)):
        raise ModelError(
            str(folder), f"its tokenizer adds a token {max(ids)}, and the model has {num_rows} rows: take it out of "
            "tokenizer.json, or give the model a row for it"
        )  # fmt: skip
    return ids | _named_in_settings(folder)


def _named_in_settings(folder: Path) -> set[int]:
    """Ids that config.json or generation_config.json gives a meaning. Some name one that does not exist, such as -1."""
    num_rows, found = _num_rows(folder), set[int]()
    for path in (folder / "config.json", folder / "generation_config.json"):
        if path.is_file():
            for key, value in _read_json(path).items():
                if _ID_KEY.search(key):
                    found.update(
                        one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)
                    )
    return {one for one in found if 0 <= one < num_rows}


def _renumbered(settings: dict[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    """The same settings with every token by its new number."""
    out = dict(settings)
    for key, value in settings.items():
        if _ID_KEY.search(key):
            out[key] = (
                [new_ids.get(one, one) for one in value]
                if isinstance(value, list)
                else new_ids.get(value, value)
            )
        elif key in _ID_LISTS and isinstance(value, list):
            out[key] = [new_ids[one] for one in value if one in new_ids]
        elif key == "bad_words_ids" and isinstance(value, list):
            out[key] = [[new_ids[one] for one in word] for word in value if set(word) <= new_ids.keys()]
    return out


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
