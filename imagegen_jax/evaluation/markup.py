"""Pages of HTML: one file each, with everything in it and nothing to fetch or execute."""

import base64
import datetime
import html
import io
import json

from imagegen_jax import errors
from imagegen_jax import files
from imagegen_jax.data import pictures


class Html(str):
    """Text that is HTML already; all other text is escaped."""


def text(value):
    """A value as HTML: as it is where it is Html, else escaped."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def joined(parts):
    """Elements one after the other, without those that are empty."""
    return Html("\n".join(text(part) for part in parts if part))


def tag(name, *children, **attributes):
    """An element; `class_` and `aria_label` are written as `class` and `aria-label`."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{''.join(map(text, children))}</{name}>")


def table(caption, headings, rows, kind="numbers", classes=()):
    """A table that scrolls in itself on a narrow screen.

    Args:
      caption: also its name for those who cannot see it.
      headings: of the columns; empty for none.
      rows: lists of cells; the first heads the row.
      kind: 'numbers', each in a line of its own; or 'words', which wrap.
      classes: of the rows, where they have any.
    """
    head = tag("thead", tag("tr", *(tag("th", heading, scope="col") for heading in headings))) if headings else ""
    body = []
    for i, (first, *others) in enumerate(rows):
        name = {"class_": classes[i]} if classes and classes[i] else {}
        body.append(tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in others), **name))
    table = tag("table", tag("caption", caption), head, tag("tbody", *body), class_=kind)
    # A region that scrolls must be reachable with the keyboard.
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=caption)


def details(summary, *children):
    """What a click on the summary shows."""
    return tag("details", tag("summary", summary), *children)


def section(title, *children):
    """A part of a page, with its title; '' where it has no children."""
    return tag("section", tag("h2", title), joined(children)) if any(children) else ""


def image(path, alt, side=1600):
    """A picture file in the page: as it is, or made smaller where a side is longer than `side` pixels."""
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
        return tag("p", f"{path.name} cannot be read.", class_="note")
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    kind = {"class_": "pixels"} if max(size) < 600 else {}  # which a screen would show enlarged, and blurred
    return Html(tag("img", src=source, alt=alt, width=size[0], height=size[1], **kind).removesuffix("</img>"))


_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882 }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; margin: 0 }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem }
p { margin: .5rem 0 }
.note { border-left: .25rem solid #c80; padding-left: .75rem }
.scroll { overflow-x: auto; margin: .5rem 0 }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal }
caption { text-align: left; font-size: .875rem; padding-bottom: .25rem; opacity: .8 }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
thead th { vertical-align: bottom }
thead th { min-width: 5.5rem }
tbody th { font-weight: normal }
.numbers td { white-space: nowrap }
.numbers tbody th { min-width: 8rem }
.words td { overflow-wrap: anywhere }
tr.anchor { background: var(--soft); font-style: italic }
.board > * { vertical-align: middle }
code { font-family: ui-monospace, monospace; font-size: .9em }
summary { cursor: pointer; padding: .25rem 0 }
figure { margin: 0; min-width: 0 }
figcaption { font-size: .875rem }
img { display: block; max-width: 100%; height: auto; background: #fff }
.last img, .grids img { width: 100% }
.last img.pixels { image-rendering: pixelated }
svg { display: block; width: 100%; height: auto }
.curves, .grids { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)) }
.grids { grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)) }
.last { max-width: 36rem; margin-bottom: 1.25rem }
.heads { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; font-size: .75rem; line-height: 1.2; padding: .25rem 0 }
.heads span { overflow-wrap: anywhere; padding-right: .25rem }
.panels { min-width: 30rem }
.thumb img { width: 6rem; min-width: 6rem }
footer { margin: 3rem 0 1rem; font-size: .875rem; opacity: .8 }
@media print { details { break-inside: avoid } }
"""


def page(title, *children):
    """A whole page, as text."""
    # The policy makes sure of what this module promises: the page asks nobody for anything.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    now = datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes").removesuffix("+00:00")
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        tag("style", Html(_STYLE)),
    ]
    body = tag("body", tag("main", joined(children)), tag("footer", f"Written by experiments.report, {now} UTC."))
    return f'<!doctype html>\n<html lang="en">\n{joined([tag("head", joined(head)), body])}\n</html>\n'


def code(value):
    """A value in the type of programs."""
    return tag("code", value)


def listing(caption, tree):
    """A table of nested dicts, a row for each value: `{'a': {'b': 1}}` has one, of the key 'a.b'."""
    return table(caption, ("key", "value"), [[code(key), long(value)] for key, value in _flat(tree)], "words")


def _flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def long(value):
    """A string as it is, anything else as JSON."""
    return code(value if isinstance(value, str) else json.dumps(value, default=str))


def duration(seconds):
    """'2 h 5 min', '1 min 15 s' or '4.2 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def check(out):
    """Raises errors.UserError where `out` is not the path of a page."""
    if files.to_path(out).suffix != ".html" or files.to_path(out).is_dir():
        raise errors.UserError(f"--out={out}: give a file, a path ending in .html")


def save(out, text):
    """Writes a page, as a whole or not at all. Raises errors.UserError."""
    with files.atomic_write(out, f"--out={out}: cannot write it") as temporary:
        temporary.write_text(text, "utf-8", errors="replace")  # names of files need not be text
