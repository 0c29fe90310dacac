"""The page that holds a report: one HTML file, without scripts and without a network."""

from collections.abc import Sequence
from typing import NamedTuple

from alexnet_jax.reporting.markup import Html, escaped, joined, tag
from alexnet_jax.reporting.style import STYLE


class Section(NamedTuple):
    """A part of the page with a heading; `name` is its address within the page."""

    name: str
    title: str
    body: Html


class Prose(NamedTuple):
    """Content of a table's cell that is wrapped where it is long, and begins on the left."""

    text: object


def page(title: str, lead: Html, sections: Sequence[Section]) -> str:
    """The whole file.

    Args:
      title: of the page, as plain text.
      lead: what stands above the table of contents.
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
    body = tag('body', tag('main', tag('header', tag('h1', title), lead), nav, *parts))
    return f'<!doctype html>\n{tag("html", head, body, lang="en")}\n'


def figure(content: Html, caption: object, class_: str | None = None) -> Html:
    """A figure with its caption below."""
    return tag('figure', content, tag('figcaption', caption), class_=class_)


def table(header: Sequence[object], rows: Sequence[Sequence[object]], caption: object) -> Html:
    """A table, the first column being the names of the rows; where it is too wide it scrolls."""
    head = tag('thead', tag('tr', *(_cell('th', content, scope='col') for content in header)))
    body = [
        tag('tr', tag('th', row[0], scope='row'), *(_cell('td', content) for content in row[1:]))
        for row in rows
    ]
    return figure(scrolling(tag('table', head, tag('tbody', *body))), caption)


def _cell(name: str, content: object, **attributes: str) -> Html:
    """A cell of a table; what is not prose stands on the right and is not wrapped."""
    if isinstance(content, Prose):
        return tag(name, content.text, class_='text', **attributes)
    return tag(name, content, **attributes)


def scrolling(content: Html) -> Html:
    """A box that scrolls sideways by itself; by the keyboard too."""
    return tag('div', content, class_='scroll', tabindex='0')


def picture(address: str, alternative: str, class_: str | None = None) -> Html:
    """An image that is part of the page."""
    return tag('img', src=address, alt=alternative, class_=class_)


def facts(pairs: Sequence[tuple[str, object]]) -> Html:
    """Names and what they are, in two columns."""
    return tag('dl', *(joined(tag('dt', name), tag('dd', value)) for name, value in pairs))


def code(text: str) -> Html:
    """A command or names; a line ends between words where that is possible."""
    words = [tag('span', word) for word in text.split(' ')]
    return tag('code', Html(' '.join(words)))


def paragraph(*parts: object) -> Html:
    """Text."""
    return tag('p', *(escaped(part) for part in parts))


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction as 0.85 %, with a space that does not break."""
    return f'{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%'
