"""Where sentences end, in German, Chinese, English and what is written like them. Used to cut long documents.

A border that is missed costs nothing (a chunk ends one sentence earlier or later); a false one tears a sentence
apart, so in doubt there is no border: after abbreviations, initials, ordinals ("am 3. Mai"), before a small letter.
"""

from __future__ import annotations

import re

# Latin: terminator, closing quotes or brackets, white space, then anything but a small letter. CJK needs no space.
# A run of terminators is looked at once, from its start, and nothing is given back (++): a table of contents with
# thousands of dots would else take their square in steps.
_BORDER = re.compile(
    r"""(?P<latin>(?<![.!?…])[.!?…]++["'»“”’)\]]*+\s++(?=[^a-zäöüß]))"""
    r"""|(?P<cjk>[。！？｡][。！？｡…”’」』）]*\s*)"""
    r"""|(?P<line>\n\s*)"""
)
_LAST_WORD = re.compile(r"[^\s(\"'„»]+$")
_ABBREVIATIONS = frozenset(
    """
    abs allg art aufl bd bsp bzgl bzw ca co dgl dipl dr ders ebd etc evtl exkl fa fig ff geb gem ggf hr hrsg inkl ing jh
    jr kap lt max mfg mind mio mrd mwst nr od prof rd resp s. sog st std str tel tsd u.a usf usw vgl vs z.b zb zt zzgl
    no mr mrs ms messrs sr inc ltd corp dept est approx e.g i.e al eq sec ch vol pp ed eds rev gen col sgt capt gov
    jan feb mrz apr jun jul aug sep sept okt oct nov dez dec mo di mi do fr sa so
    """.split()
)
_INITIAL_OR_ORDINAL = re.compile(r"(?:[^\W\d_]|\d{1,2}|[ivx]+|(?:[^\W\d_]\.)+[^\W\d_])$", re.IGNORECASE)


def split_sentences(text: str) -> list[str]:
    """Cut a text into sentences, each with the white space behind it: joined, they are the text again."""
    pieces, start = [], 0
    for border in _BORDER.finditer(text):
        if (
            border["latin"]
            and border["latin"].startswith(".")
            and _abbreviated(text[max(0, border.start() - 20) : border.start()])
        ):
            continue
        pieces.append(text[start : border.end()])
        start = border.end()
    if start < len(text):
        pieces.append(text[start:])
    return pieces


def _abbreviated(before: str) -> bool:
    """Whether a full stop after these characters belongs to the word and ends nothing."""
    found = _LAST_WORD.search(before)
    if found is None:
        return False
    word = found[0]
    return word.lower() in _ABBREVIATIONS or _INITIAL_OR_ORDINAL.fullmatch(word) is not None
