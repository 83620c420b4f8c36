"""Read from a prompt which changes of light, moves of the camera and cuts it asks for, by a small vocabulary."""

import re
from typing import NamedTuple

DARKER = (
    r"sun(?:set|down)s?", r"sun (?:is )?set(?:s|ting)?", r"sun (?:is going|goes) down", r"dusk", r"nightfall",
    r"night (?:is )?fall(?:s|ing)", r"twilight", r"(?:is|gets?|getting|grows?|growing) darker", r"darken(?:s|ing)?",
    r"fad(?:e|es|ing) (?:out|to black)", r"lights? (?:go|goes|going|turns?|(?:is|are) turned) (?:out|off)",
    r"eclipse", r"dim(?:s|ming)", r"storm (?:gathers|rolls in|approaches)",
)  # fmt: skip
BRIGHTER = (
    r"sunrises?", r"sun (?:is )?ris(?:es|ing)", r"sun (?:is )?com(?:es|ing) (?:up|out)", r"dawn(?:s|ing)?",
    r"day ?breaks?", r"(?:is|gets?|getting|grows?|growing) brighter", r"brighten(?:s|ing)?",
    r"fad(?:e|es|ing) (?:in|to white)", r"lights? (?:go|goes|going|come|comes|turns?|(?:is|are) turned) on",
    r"lightning", r"explo(?:des?|sions?)",
)  # fmt: skip
EITHER = (
    r"time-?lapse", r"day (?:in)?to night", r"night (?:in)?to day", r"flicker(?:s|ing)?", r"strob(?:e|es|ing)",
    r"lights? changes?", r"(?:changing|shifting) light",
)  # fmt: skip
CAMERA = (
    r"camera (?:\w+ly )?(?:pan|tilt|zoom|mov|track|follow|flies|fly|glid|circl|orbit|pull|push|rotat|sweep)\w*",
    r"pan(?:s|ning)? (?:left|right|up|down|across|over)", r"(?:tracking|dolly|drone|aerial|orbit|crane|panning) shots?",
    r"zoom(?:s|ing)? (?:in|out)", r"fly-?through", r"point of view",
)  # fmt: skip
CUTS = (
    r"cuts? to", r"(?:hard|jump|smash|match) cuts?", r"switch(?:es)? to", r"scene changes?", r"next (?:scene|shot)",
    r"(?:another|second|new) (?:scene|shot)", r"transitions? to",
)  # fmt: skip
MANY_CUTS = (r"montage", r"(?:quick|rapid|fast|many|several) cuts", r"series of (?:shots|scenes)")
"""Phrases that ask for a cut at any time, any number of times."""


MONTAGE = 2**31


class AskedChanges(NamedTuple):
    """Hold what a prompt allows to change."""

    darker: bool
    brighter: bool
    camera: bool
    """The camera moves."""
    cuts: int
    """Number of cuts at most; MONTAGE where any number was asked for."""


def asked_changes(prompt: str) -> AskedChanges:
    """Find the phrases of the vocabulary in `prompt`, as whole words, whatever their case.

    A phrase that describes a state ("a beach at sunset") counts as well: it cannot be told from a change.
    """
    either = _count(EITHER, prompt) > 0
    cuts = MONTAGE if _count(MANY_CUTS, prompt) else _count(CUTS, prompt)
    return AskedChanges(
        darker=either or _count(DARKER, prompt) > 0,
        brighter=either or _count(BRIGHTER, prompt) > 0,
        camera=_count(CAMERA, prompt) > 0,
        cuts=cuts,
    )


def _count(phrases: tuple[str, ...], prompt: str) -> int:
    return len(re.findall(rf"\b(?:{'|'.join(phrases)})\b", prompt, re.IGNORECASE))
