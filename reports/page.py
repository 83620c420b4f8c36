"""Render an HTML page from the templates of assets/: one file that needs nothing outside it."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from reports.charts import STYLES

_LEAST = 1e-9
"""Numbers nearer to 0 are shown as 0: they are what rounding leaves."""


def render_page(template: str, **values: Any) -> bytes:
    """Fill `template` with `values` and the methods' styles.

    Every template extends base.html.j2, and must use no value that is missing. Filters: `typeset`, `clock`, `number`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent.parent / "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"typeset": _typeset, "clock": _clock, "number": number_text}
    environment.globals["styles"] = STYLES
    return environment.get_template(template).render(**values).encode()


def flat_settings(
    settings: Mapping[str, Any], unsplit: Collection[str] = (), prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield dotted names and texts of nested settings, without splitting mappings directly in groups `unsplit`."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value and prefix.removesuffix(".") not in unsplit:
            yield from flat_settings(value, unsplit, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "none" if value is None or value == [] else str(value)


def number_text(value: float) -> str:
    """Format a number of a table: three decimals, one from 10 on, and two digits of what three would hide."""
    size = abs(value)
    if size < _LEAST:
        return "0.000"
    if size >= 0.01:
        return f"{value:.1f}" if size >= 10 else f"{value:.3f}"
    return f"{value:.4f}" if size >= 0.001 else f"{value:.1e}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _typeset(text: str) -> str:
    """Replace ASCII forms of the terminal by times signs and by non-breaking spaces before units."""
    text = re.sub(r"(?<=\d)x\b", "\u00d7", text)
    return re.sub(r"(?<=\d) (?=s\b|%)", "\u00a0", text)
