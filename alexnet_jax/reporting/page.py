"""The page of a report: one HTML file that needs no scripts and no network."""

from collections.abc import Sequence
from typing import NamedTuple

from alexnet_jax.reporting.markup import Html, joined, tag
from alexnet_jax.reporting.style import STYLE


class Section(NamedTuple):
    """A part of the page with a heading.

    Attributes:
      name: its address within the page.
      title: the heading.
      body: everything below the heading.
    """

    name: str
    title: str
    body: Html


class Prose(NamedTuple):
    """Content of a table cell that is left-aligned and wrapped where it is long."""

    text: object


def page(title: str, lead: Html, sections: Sequence[Section]) -> str:
    """Returns the complete file.

    Args:
      title: of the page, as plain text.
      lead: content above the table of contents.
      sections: in the order of the page.
    """
    contents = [tag('li', tag('a', s.title, href=f'#{s.name}')) for s in sections]
    parts = [tag('section', tag('h2', s.title), s.body, id=s.name) for s in sections]
    head = tag(
        'head',
        tag('meta', charset='utf-8'),
        tag('meta', name='viewport', content='width=device-width, initial-scale=1'),
        tag('link', rel='icon', href='data:,'),
        tag('title', title),
        tag('style', Html(STYLE)),
    )
    nav = tag('nav', tag('ol', *contents), aria_label='Contents')
    header = tag('header', tag('h1', title), lead)
    body = tag('body', tag('main', header, nav if len(parts) > 1 else None, *parts))
    return f'<!doctype html>\n{tag("html", head, body, lang="en")}\n'


def figure(content: Html, caption: object, class_: str | None = None) -> Html:
    """Returns a figure with its caption below it."""
    return tag('figure', content, tag('figcaption', caption), class_=class_)


def table(header: Sequence[object], rows: Sequence[Sequence[object]], caption: object) -> Html:
    """Returns a table whose first column names the rows; it scrolls where it is too wide."""
    head = tag('thead', tag('tr', *(_cell('th', content, scope='col') for content in header)))
    body = [
        tag('tr', tag('th', row[0], scope='row'), *(_cell('td', content) for content in row[1:]))
        for row in rows
    ]
    return figure(scrolling(tag('table', head, tag('tbody', *body))), caption)


def _cell(name: str, content: object, **attributes: str) -> Html:
    """Returns a cell of a table; anything but prose is right-aligned and not wrapped."""
    if isinstance(content, Prose):
        return tag(name, content.text, class_='text', **attributes)
    return tag(name, content, **attributes)


def scrolling(content: Html) -> Html:
    """Returns a box that scrolls sideways by itself, also with the keyboard."""
    return tag('div', content, class_='scroll', tabindex='0')


def picture(address: str, alternative: str, class_: str | None = None) -> Html:
    """Returns an image that is embedded in the page.

    Args:
      address: the image itself as a data URL.
      alternative: text for readers who do not see the image.
      class_: its class in the style sheet.
    """
    return tag('img', src=address, alt=alternative, class_=class_)


def facts(pairs: Sequence[tuple[str, object]]) -> Html:
    """Returns names and their values, in two columns."""
    return tag('dl', *(joined(tag('dt', name), tag('dd', value)) for name, value in pairs))


def code(text: str) -> Html:
    """Returns a command or names in a fixed-width font; lines break between words if possible."""
    words = [tag('span', word) for word in text.split(' ')]
    return tag('code', Html(' '.join(words)))


def paragraph(*parts: object) -> Html:
    """Returns a paragraph; None is left out."""
    return tag('p', *parts)


def percent(fraction: float, digits: int = 2) -> str:
    """Formats a fraction as 0.85 %, with a no-break space."""
    return f'{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%'
