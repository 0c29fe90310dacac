"""HTML and SVG from Python: text is escaped, what is markup already is not."""

import html
from typing import Any

VOID = ('img', 'link', 'meta')  # elements of HTML without an end


class Html(str):
    """Text that is markup already."""


def escaped(content: object) -> Html:
    """As it may stand in a page, in an attribute too."""
    return content if isinstance(content, Html) else Html(html.escape(str(content)))


def tag(name: str, /, *children: object, **attributes: Any) -> Html:
    """An element with its children.

    Args:
      children: markup, or anything else, whose text is escaped; None is left out.
      attributes: `class_` and `stroke_width` are written class and stroke-width; None is left out.
    """
    spelled = ''.join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = ''.join(escaped(child) for child in children if child is not None)
    if name in VOID:
        return Html(f'<{name}{spelled}/>')  # so that the page can be read as XML too
    return Html(f'<{name}{spelled}>{inner}</{name}>')


def joined(*parts: object) -> Html:
    """One after the other; None is left out."""
    return Html(''.join(escaped(part) for part in parts if part is not None))
