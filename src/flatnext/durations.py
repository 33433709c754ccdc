"""Times as people write them."""


def duration(seconds: float) -> str:
    """Return `4.2 s`, `45 s`, `12 min 30 s` or `3 h 05 min`."""
    if seconds < 9.95:  # beyond, a tenth would round to 10.0
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
