"""The sections of a report for the predictions of a small net, parsed as trees."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

import nets
from alexnet_jax.reporting import sections

CLASSES = ['<&>', 'cat', 'dog', 'a very long name']
RNG = np.random.default_rng(0)


def image(number):
    return np.full((8, 8, 3), number, np.uint8)


def tree(section):
    return ET.fromstring(f'<div>{section.body}</div>')


def text(element):
    return ''.join(element.itertext())


def pixels(img):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(img.get('src').split(',')[1]))))


def test_each_tower_has_a_picture_and_its_colourfulness():
    kernel = RNG.normal(size=(2, 11, 11, 3, 12))
    kernel[0] = kernel[0].mean(axis=2, keepdims=True)  # grey
    section = tree(sections.filters(kernel, grey=False))
    towers = section.findall('.//figure')
    assert len(towers) == 2
    assert 'colourfulness 0.00' in text(towers[0])
    assert 'colourfulness 0.6' in text(towers[1])
    grey, coloured = (pixels(tower.find('img')) for tower in towers)
    assert grey.shape == (2 * 12 + 1, 6 * 12 + 1, 3)
    assert (np.ptp(grey, axis=2) == 0).all()
    assert np.ptp(coloured, axis=2).max() > 100
    assert 'no colour can be learned' not in text(section)
    assert 'no colour can be learned' in text(tree(sections.filters(kernel, grey=True)))


@pytest.mark.parametrize('grey', [False, True])
def test_no_section_shows_none(grey):
    p, labels = nets.log(RNG.dirichlet(np.ones(4), 9)), np.arange(9, dtype=np.int32) % 4
    parts = [
        sections.filters(RNG.normal(size=(2, 11, 11, 3, 6)), grey),
        sections.predictions(image, p, labels, CLASSES, 4),
        sections.nearest(image, RNG.normal(size=(9, 5)), labels, CLASSES),
        sections.confusions(p, labels, CLASSES),
    ]
    for part in parts:
        assert not re.search(r'\bNone\b', text(tree(part))), part.name


def test_bars_show_the_most_probable_labels_and_mark_the_true_one():
    p = nets.log([[0.1, 0.6, 0.3, 0.0], [0.004, 0.2, 0.796, 0.0]])
    section = tree(sections.predictions(image, p, np.int32([2, 2]), CLASSES, 8))
    assert 'except for the last 1: the most confident mistakes' in text(
        section.find('.//figcaption')
    )
    right, wrong = section.findall('.//ol[@class="examples"]/li')
    assert text(right.find('strong')) == 'dog'
    assert right.find('img').get('alt') == 'test image 1: dog'
    bars = wrong.findall('ol/li')
    assert [bar.find('span').text for bar in bars] == ['cat', 'dog', '<&>', 'a very long name']
    assert [bar.get('class') for bar in bars] == [None, 'true', None, None]
    assert bars[0].get('style') == '--p:60.0%'
    assert text(right.findall('ol/li')[2]) == '<&><1\N{NO-BREAK SPACE}%'


def test_outputs_that_are_nan_are_mistakes():
    log_p = nets.log([[0.9, 0.1, 0.0, 0.0], [0.1, 0.9, 0.0, 0.0], [0.8, 0.2, 0.0, 0.0]])
    log_p[2] = np.nan
    labels = np.int32([0, 0, 0])
    shown = text(tree(sections.predictions(image, log_p, labels, CLASSES, 8)))
    assert 'except for the last 2: the most confident mistakes' in shown
    assert 'nan' not in shown
    section = tree(sections.confusions(log_p, labels, CLASSES))
    often, worst = section.findall('.//div[@class="pair"]//tbody')
    assert [text(row.findall('*')[1]) for row in often] == ['cat', 'not a number']
    assert text(worst).startswith('<&>2366.7')


def test_five_labels_at_most():
    p = nets.log(RNG.dirichlet(np.ones(30), 20))
    labels = p.argmax(axis=1).astype(np.int32)
    section = tree(sections.predictions(image, p, labels, [str(k) for k in range(30)], 3))
    assert 'evenly spaced classes where these are more.' in text(section.find('.//figcaption'))
    examples = section.findall('.//ol[@class="examples"]/li')
    assert [len(example.findall('ol/li')) for example in examples] == [5, 5, 5]


def test_neighbours_are_beside_their_query():
    """The vectors are pairs of neighbours; in one pair the classes differ."""
    labels = np.int32([0, 0, 1, 1, 2, 3])
    vectors = np.float32([[0, 0], [0, 1], [50, 0], [50, 1], [0, 90], [0, 91]])
    section = tree(sections.nearest(image, vectors, labels, CLASSES))
    cells = section.findall('.//div[@class="neighbours"]/div')
    queries = [n for n, cell in enumerate(cells) if cell.get('class') == 'query']
    assert queries == [0, 6, 12, 18, 24]  # five others to each
    nearest = {pixels(cells[n].find('img'))[0, 0, 0]: cells[n + 1] for n in queries}
    partner = {0: 1, 1: 0, 2: 3, 3: 2, 4: 5, 5: 4}
    for query, cell in nearest.items():
        assert pixels(cell.find('img'))[0, 0, 0] == partner[query]
        assert cell.get('class') == ('wrong' if query in (4, 5) else None)
    assert 'the same class for 66.67\N{NO-BREAK SPACE}%' in text(section)
    assert 'only one test image' in text(
        tree(sections.nearest(image, vectors[:1], labels[:1], CLASSES))
    )


def test_of_many_images_a_sample_is_compared(monkeypatch):
    monkeypatch.setattr(sections, 'QUERIES', 3)
    vectors = np.arange(10, dtype=np.float32)[:, None]
    section = tree(sections.nearest(image, vectors, np.zeros(10, np.int32), CLASSES))
    assert '100.00\N{NO-BREAK SPACE}% of the images (of 3 evenly spaced ones)' in text(section)


def probabilities(labels, guesses, classes):
    return nets.log(np.eye(classes)[guesses]), np.int32(labels)


def test_few_classes_have_a_table_of_confusions():
    p, labels = probabilities([0, 0, 0, 1, 3], [0, 0, 3, 1, 3], 4)
    section = tree(sections.confusions(p, labels, CLASSES))
    matrix = section.find('.//table[@class="confusion"]')
    rows = [[text(c) for c in row] for row in matrix.findall('tbody/tr')]
    assert rows[0] == ['<&>', '2', '·', '·', '1']
    assert rows[2] == ['dog', '·', '·', '·', '·']
    assert matrix.find('tbody/tr/td').get('class') == 'same'
    often, worst = section.findall('.//div[@class="pair"]//tbody')
    assert [text(c) for c in often.find('tr')] == ['<&>', 'a very long name', '1', '3']
    assert [text(c) for c in worst.find('tr')] == ['<&>', '1', '3', '33.3\N{NO-BREAK SPACE}%']


@pytest.mark.parametrize(('classes', 'pictures'), [(20, 0), (21, 1)])
def test_many_classes_have_a_picture_of_confusions(classes, pictures):
    labels = np.repeat(np.arange(classes), 3)
    guesses = labels.copy()
    guesses[::2] = (guesses[::2] + 1) % classes
    p, labels = probabilities(labels, guesses, classes)
    section = tree(sections.confusions(p, labels, [str(k) for k in range(classes)]))
    images = section.findall('.//img')
    assert len(images) == pictures
    assert [pixels(x).shape for x in images] == [(classes, classes, 3)] * pictures
    assert [
        len(body.findall('tr')) for body in section.findall('.//div[@class="pair"]//tbody')
    ] == [
        10,
        10,
    ]


def test_no_mistakes():
    p, labels = probabilities([0, 1], [0, 1], 4)
    assert 'no mistakes' in text(tree(sections.confusions(p, labels, CLASSES)))
