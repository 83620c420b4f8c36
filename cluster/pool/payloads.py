"""Payloads in Ray's object store, opened where they are used."""

from collections.abc import Sequence

import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster.supply.wire import LOST, BadWindow, Header, Item, open_item
from models.records import MadeBlock

_FETCH_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 5.0
"""For each payload once one of them has failed: what is there comes at once."""


def fetch(headers: Sequence[Header]) -> list[Item | BadWindow]:
    """Open the items of `headers`; in place of one that must not be used, why.

    A payload whose node or owner has died is `lost`. Calls Ray's blocking get: not for an event loop.
    """
    references = [header.payload for header in headers]
    try:
        payloads = ray.get(references, timeout=_FETCH_TIMEOUT_S)
    except (RayError, GetTimeoutError):
        payloads = [_probe(reference) for reference in references]
    items: list[Item | BadWindow] = []
    for header, payload in zip(headers, payloads, strict=True):
        if isinstance(payload, Exception):
            items.append(BadWindow(LOST, f"{header.name}: its tensors are lost ({type(payload).__name__})"))
            continue
        try:
            items.append(open_item(header, payload))
        except BadWindow as bad:
            items.append(bad)
    return items


def open_blocks(headers: Sequence[Header]) -> list[MadeBlock]:
    """Open all of these blocks. Raises the BadWindow of one that cannot be used."""
    blocks = fetch(headers)
    for block in blocks:
        if isinstance(block, BadWindow):
            raise block
    return blocks


def _probe(reference: ray.ObjectRef) -> object:
    try:
        return ray.get(reference, timeout=_PROBE_TIMEOUT_S)
    except (RayError, GetTimeoutError) as error:
        return error
