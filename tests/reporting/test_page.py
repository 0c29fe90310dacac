import xml.etree.ElementTree as ET

from alexnet_jax.reporting import page
from alexnet_jax.reporting.markup import Html, tag


def test_a_page_has_its_sections_and_a_table_of_contents():
    sections = [
        page.Section('one', 'First & <b>', page.paragraph('a < b ', tag('b', 'c'))),
        page.Section('two', 'Second', page.table(('x', 'y'), [('1', 2)], 'a table')),
    ]
    text = page.page('Title <i>', page.paragraph('lead'), sections)
    assert text.startswith('<!doctype html>\n<html lang="en">')
    assert '<title>Title &lt;i&gt;</title>' in text
    assert '<h1>Title &lt;i&gt;</h1>' in text
    assert '<a href="#one">First &amp; &lt;b&gt;</a>' in text
    assert '<section id="two"><h2>Second</h2>' in text
    assert '<p>a &lt; b <b>c</b></p>' in text
    assert '<script' not in text
    assert 'http' not in text


def test_a_table_escapes_its_cells_and_scrolls_by_itself():
    table = page.table(
        ('class', page.Prose('meaning')), [('<&>', page.Prose('long'))], Html('a <b>caption</b>')
    )
    root = ET.fromstring(table)
    assert root.tag == 'figure'
    assert root.find('div').get('class') == 'scroll'
    assert root.find('.//tbody//th').text == '<&>'
    assert root.find('.//tbody//td').get('class') == 'text'
    assert [h.get('class') for h in root.findall('.//thead//th')] == [None, 'text']
    assert root.find('figcaption/b').text == 'caption'


def test_words_of_a_command_are_not_broken():
    assert page.code('a --b') == '<code><span>a</span> <span>--b</span></code>'


def test_a_paragraph_leaves_out_parts_that_are_none():
    assert page.paragraph('a ', None, tag('b', 'c')) == '<p>a <b>c</b></p>'


def test_percent():
    assert page.percent(0.00846) == '0.85\N{NO-BREAK SPACE}%'
    assert page.percent(1.0, 0) == '100\N{NO-BREAK SPACE}%'
