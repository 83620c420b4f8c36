"""Render an HTML page from a template of assets/: one file that needs nothing outside it."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from reports.figures import CURVES, STYLES, seconds_at


def render_page(template: str, segments: list[int], **values: Any) -> bytes:
    """Fill `template` with `values`, the curves, the methods' styles, and `segments` as (number, time of its end).

    Templates must use no value that is missing. Their filters: `typeset` and `clock`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent.parent / "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"typeset": _typeset, "clock": _clock}
    times = [(segment, seconds_at(segment)) for segment in segments]
    return environment.get_template(template).render(curves=CURVES, styles=STYLES, segments=times, **values).encode()


def flat_settings(
    settings: Mapping[str, Any], unsplit: Collection[str] = (), prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield dotted names and texts of nested settings, without splitting mappings directly in groups `unsplit`."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value and prefix.removesuffix(".") not in unsplit:
            yield from flat_settings(value, unsplit, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "none" if value is None else str(value)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _typeset(text: str) -> str:
    """Replace ASCII forms of the terminal by times signs and by non-breaking spaces before units."""
    text = re.sub(r"(?<=\d)x\b", "\u00d7", text)
    return re.sub(r"(?<=\d) (?=s\b|%)", "\u00a0", text)
