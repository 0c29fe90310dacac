"""HTML and SVG from Python: text is escaped, markup is not."""

import html
from typing import Any

from alexnet_jax.runtime.printing import printable

VOID = ('img', 'link', 'meta')  # HTML elements without an end tag


class Html(str):
    """Text that is already markup."""


def escaped(content: object) -> Html:
    r"""Escapes text for use in a page, also within an attribute; markup is returned as it is.

    Control characters are shown as escapes, such as \x1b.
    """
    return (
        content
        if isinstance(content, Html)
        else Html(html.escape(printable(str(content), keep='\n\t')))
    )


def tag(name: str, /, *children: object, **attributes: Any) -> Html:
    """Returns an element with its children.

    Args:
      name: of the element.
      children: markup, or any other object, whose text is escaped; None is left out.
      attributes: `class_` and `stroke_width` are written class and stroke-width; None is left out.
    """
    attribute_text = ''.join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = ''.join(escaped(child) for child in children if child is not None)
    if name in VOID:
        return Html(f'<{name}{attribute_text}/>')  # so that the page can be read as XML too
    return Html(f'<{name}{attribute_text}>{inner}</{name}>')


def joined(*parts: object) -> Html:
    """Concatenates markup and escaped text; None is left out."""
    return Html(''.join(escaped(part) for part in parts if part is not None))
