"""A page from a template, and how templates show pictures, spans of time and nested settings."""

import base64
import datetime
import io
import json
from typing import NamedTuple

from imagegen_jax import templates
from imagegen_jax.data import pictures
from imagegen_jax.evaluation import measures


class Picture(NamedTuple):
    """A picture that stands in a page: `source` is a data: URL, the sides are in pixels."""

    source: str
    width: int
    height: int


def render(name, /, **values):
    """The HTML of a template of this package."""
    now = datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes").removesuffix("+00:00")
    tools = {"measures": measures, "embedded": embedded, "flat": flat, "shown": shown, "duration": duration}
    return templates.render(__package__, name, now=now, **tools, **values)


def embedded(path, side):
    """The Picture of a file: as it is, or made smaller where a side is longer than `side` pixels; None if it is unreadable."""
    try:
        data = path.read_bytes()
        with pictures.opened(io.BytesIO(data)) as image:
            image.load()
            size = image.size
            if max(size) > side:
                small = image.convert("RGB" if image.mode not in ("L", "RGBA") else image.mode)
                small.thumbnail((side, side))
                buffer = io.BytesIO()
                small.save(buffer, "png", optimize=True)
                size, data = small.size, buffer.getvalue()
    except (pictures.BadImageError, OSError):
        return None
    return Picture(f"data:image/png;base64,{base64.b64encode(data).decode()}", *size)


def flat(tree, prefix=""):
    """Yields ('a.b', 1) for each value of nested dicts such as {'a': {'b': 1}}."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def shown(value):
    """A string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def duration(seconds):
    """'2 h 5 min', '1 min 15 s' or '4.2 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
