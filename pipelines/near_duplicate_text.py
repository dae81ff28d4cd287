"""A partition's near-duplicates for people: how many, what they cost or spare, and a few of them by their ids."""

from __future__ import annotations

from docmill.data.schemas import NEAR_DUPLICATE_OF
from docmill.ops.near_figures import NearDuplicates
from docmill.pipelines.answer_rows import clip


def near_duplicate_lines(near: NearDuplicates, *, ran: bool) -> list[str]:
    """For the report of a run that `ran`, or for an estimate."""
    if not near.documents:
        return [
            f"alike      no document is a near-duplicate of another (similarity at least {near.similarity:g})"
        ]
    others = f"{near.groups:,} other{'s' if near.groups > 1 else ''}"
    usd = f", {near.usd:.4f} USD" if near.usd is not None else ""
    many = f"alike      {near.documents:,} documents"
    largest = f"(similarity at least {near.similarity:g}, the largest group has {near.largest_group:,})"
    share = f"{near.work_share:.1%} of the work{usd}"
    if near.reuse == "report":
        how = f"`reuse: {{near_duplicates: answers}}` would {'have spared' if ran else 'spare'} about {share}"
    elif ran:
        how = f"they took their answers, see column {NEAR_DUPLICATE_OF}; this has spared about {usd[2:] or share}"
    else:
        how = f"they take their answers, which spares about {share}"
    are = "were" if ran else "are"
    return [
        f"{many} {are} near-duplicates of {others} {largest}: {how}",
        *(
            f"           {clip(example.document, max_chars=60)} is about {example.similarity:.2f} like "
            f"{clip(example.representative, max_chars=60)}"
            for example in near.examples
        ),
    ]
