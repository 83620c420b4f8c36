"""Write numbers with units for people."""

_STEPS = {
    "parameters": ((1, ""),),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")),
    "FLOP": ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")),
    "s": ((86400, "days"), (3600, "hours"), (60, "min"), (1, "s"), (1e-3, "ms")),
}


def with_unit(value: float, unit: str) -> str:
    """Write a number with the unit that people read: 1.25e9 B are 1.25 GB."""
    if unit == "parameters":
        return f"{value:,.0f}"
    size, name = next((step for step in _STEPS[unit] if value >= step[0]), _STEPS[unit][-1])
    return f"{value / size:,.2f} {name}"
