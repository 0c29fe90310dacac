"""The sections of a report that show a trained net: the paper's figures 3 and 4, and its mistakes.

The letters in names are those of figures.py.
"""

from collections.abc import Callable, Sequence

import numpy as np

from alexnet_jax.evaluation import confusion, error_rates
from alexnet_jax.evaluation import prediction_files as predictions_of
from alexnet_jax.reporting import figures
from alexnet_jax.reporting.markup import Html, joined, tag
from alexnet_jax.reporting.page import (
    Prose,
    Section,
    figure,
    paragraph,
    percent,
    picture,
    scrolling,
    table,
)
from alexnet_jax.training.pictures import filter_pictures

TABLE_CLASSES = 20  # with more, the confusion matrix is a picture
QUERIES = 2000  # at most this many test images are compared with their nearest neighbour
NEIGHBOURS = 6

Images = Callable[[int], np.ndarray]  # a test image's number to (rows, columns, 3) uint8


def filters(kernel_THWIO: np.ndarray, grey: bool) -> Section:
    """Shows the first layer's kernels, a picture for each tower (Figure 3).

    Args:
      kernel_THWIO: (towers, rows, columns, colours, maps) floats.
      grey: whether the images are grey.
    """
    *_, size, channels, maps = kernel_THWIO.shape
    # So many in a row that the last row is full, where that is possible.
    columns = next((number for number in range(8, 2, -1) if maps % number == 0), 8)
    pictures = [
        figure(
            picture(
                figures.png(filter_pictures.tower_picture(kernel_HWIO, columns, zoom=1)),
                f'{maps} kernels of tower {number}',
            ),
            f'Tower {number}: colourfulness {figures.colourfulness(kernel_HWIO):.2f}',
        )
        for number, kernel_HWIO in enumerate(kernel_THWIO)
    ]
    about = (
        f'The kernels of the first layer: {maps} of {size}x{size}x{channels} in each tower, each '
        "scaled to its own range. In the paper those of GPU 1 are 'largely color-agnostic', those "
        "of GPU 2 'largely color-specific' (§6.1)."
    )
    measure = (
        "Colourfulness, from 0 to 1, is the fraction of a kernel's squared weights that is lost "
        'when red, green and blue are replaced by their mean at every pixel, averaged over the '
        "tower's kernels. A grey kernel has 0, red against green 1, random initial weights 0.67."
    )
    note = ' The images are grey: no colour can be learned from them.' if grey else None
    body = joined(
        paragraph(about, note), tag('div', *pictures, class_='pair filters'), paragraph(measure)
    )
    return Section('filters', 'First-layer kernels (Figure 3)', body)


def predictions(
    images: Images, log_p_NK: np.ndarray, labels_N: np.ndarray, classes: Sequence[str], count: int
) -> Section:
    """Shows test images and their five most probable labels (Figure 4, left).

    Args:
      images: the test images by number.
      log_p_NK: (N, K) float32, the logarithms of the mean probabilities over all test views.
      labels_N: (N,) int32.
      classes: names of the labels.
      count: the number of images to show.
    """
    of_all_classes, mistakes = figures.examples(log_p_NK, labels_N, count)
    shown = of_all_classes + mistakes
    grid = [_example(images(n), log_p_NK[n], labels_N[n], classes, n) for n in shown]
    last = f', except for the last {len(mistakes)}: the most confident mistakes' if mistakes else ''
    caption = (
        'The true label is below each image. The bars are the most probable labels, means over all '
        'test views, the true label in pink. The images are chosen from the classes in turn, or '
        f'from evenly spaced classes where these are more{last}.'
    )
    body = figure(tag('ol', *grid, class_='examples'), caption, class_='grid')
    return Section('examples', 'Test images (Figure 4, left)', body)


def _example(
    image: np.ndarray, log_p_K: np.ndarray, label: int, classes: Sequence[str], number: int
) -> Html:
    p_K = np.nan_to_num(np.exp(log_p_K), nan=0.0)
    bars = [
        tag(
            'li',
            tag('span', classes[k]),
            tag('span', _probability(p_K[k])),
            class_='true' if k == label else None,
            style=f'--p:{100 * p_K[k]:.1f}%',
        )
        for k in error_rates.most_probable(log_p_K[None], predictions_of.ANSWERS)[0]
    ]
    address = figures.png(figures.thumbnail(image))
    return tag(
        'li',
        picture(address, f'test image {number}: {classes[label]}'),
        tag('strong', classes[label]),
        tag('ol', *bars, class_='bars'),
    )


def _probability(p: float) -> str:
    return percent(p, 0) if p >= 0.005 else f'<{percent(0.01, 0)}'


def nearest(
    images: Images, vectors_NU: np.ndarray, labels_N: np.ndarray, classes: Sequence[str]
) -> Section:
    """Shows test images with their nearest neighbours in the last hidden layer (Figure 4, right).

    Args:
      images: the test images by number.
      vectors_NU: (N, U) float32, the last hidden layer of each.
      labels_N: (N,) int32.
      classes: names of the labels.
    """
    title = 'Nearest neighbours (Figure 4, right)'
    if len(labels_N) < 2:
        return Section('neighbours', title, paragraph('There is only one test image.'))
    queries = figures.over_classes(labels_N, 5)
    nearest_QM = figures.neighbours(vectors_NU, queries, NEIGHBOURS)
    cells = [
        _neighbour(images(number), number, query, labels_N, classes)
        for query, others in zip(queries, nearest_QM.tolist(), strict=True)
        for number in (query, *others)
    ]
    others = nearest_QM.shape[1]
    grid = tag('div', *cells, class_='neighbours', style=f'--others:{others}')
    caption = (
        'The first column has test images of different classes, as far as there are enough. '
        'Beside each '
        f'are the {others} other test images with the smallest Euclidean distance in the last '
        f'hidden layer ({vectors_NU.shape[1]:,} units); those of another class are in red. The '
        'paper searches for neighbours among the training images.'
    )
    body = joined(figure(grid, caption, class_='grid'), paragraph(_agreement(vectors_NU, labels_N)))
    return Section('neighbours', title, body)


def _neighbour(
    image: np.ndarray, number: int, query: int, labels_N: np.ndarray, classes: Sequence[str]
) -> Html:
    same = labels_N[number] == labels_N[query]
    name = classes[labels_N[number]]
    address = figures.png(figures.thumbnail(image, 112))
    kind = 'query' if number == query else None if same else 'wrong'
    return tag('div', picture(address, f'test image {number}: {name}'), name, class_=kind)


def _agreement(vectors_NU: np.ndarray, labels_N: np.ndarray) -> str:
    queries = figures.evenly_spaced(len(labels_N), QUERIES)
    first = figures.neighbours(vectors_NU, queries, 1)[:, 0]
    fraction = float(np.mean(labels_N[first] == labels_N[queries]))
    sample = '' if len(queries) == len(labels_N) else f' (of {len(queries):,} evenly spaced ones)'
    return (
        f'The nearest neighbour has the same class for {percent(fraction)} of the images{sample}.'
    )


def confusions(log_p_NK: np.ndarray, labels_N: np.ndarray, classes: Sequence[str]) -> Section:
    """Shows the confusion matrix, the most frequent confusions and the classes with most errors.

    Args:
      log_p_NK: (N, K) float32, the logarithms of the mean probabilities over all test views.
      labels_N: (N,) int32.
      classes: names of the labels.
    """
    counts_KK = confusion.matrix(log_p_NK, labels_N)
    answers = confusion.answer_names(counts_KK, classes)
    small = len(classes) <= TABLE_CLASSES
    matrix = _matrix_table(counts_KK, classes) if small else _matrix_picture(counts_KK)
    frequent = [
        (classes[true], Prose(answers[guess]), count, counts_KK[true].sum())
        for true, guess, count in figures.frequent_confusions(counts_KK)
    ]
    worst = [
        (classes[k], wrong, images, percent(wrong / images, 1))
        for k, wrong, images in figures.worst_classes(counts_KK)
    ]
    if not frequent:
        return Section(
            'confusions',
            'Confusions',
            joined(matrix, paragraph('The net makes no mistakes on the test images.')),
        )
    lists = (
        table(
            ('class', Prose('mistaken for'), 'times', 'of'),
            frequent,
            'The most frequent confusions, at most ten.',
        ),
        table(
            ('class', 'mistakes', 'of', 'error'),
            worst,
            'The classes with the highest errors, at most ten.',
        ),
    )
    return Section('confusions', 'Confusions', joined(matrix, tag('div', *lists, class_='pair')))


_MATRIX = (
    'Test images by class (rows) and most probable label (columns), by the mean over all test '
    'views; the darker a cell, the larger its fraction of the row.'
)


def _matrix_table(counts_KK: np.ndarray, classes: Sequence[str]) -> Html:
    names = confusion.answer_names(counts_KK, classes)
    long = 'long' if max(map(len, names)) > 3 else None
    head = [tag('th', tag('div', name, class_=long), scope='col') for name in names]
    rows = [
        tag(
            'tr',
            tag('th', classes[row], scope='row'),
            *(_count(n, counts_K.sum(), row == column) for column, n in enumerate(counts_K)),
        )
        for row, counts_K in enumerate(counts_KK)
    ]
    top = tag('thead', tag('tr', tag('th'), *head))
    matrix = tag('table', top, tag('tbody', *rows), class_='confusion')
    return figure(scrolling(matrix), _MATRIX)


def _count(count: int, of_row: int, same: bool) -> Html:
    """Returns a cell of the matrix.

    It is shaded by the square root of its fraction, so that small counts remain visible.
    """
    kind = 'same' if same else None
    if not count:
        return tag('td', tag('span', '·', class_='faint'), class_=kind)
    return tag('td', count, class_=kind, style=f'--c:{45 * (count / of_row) ** 0.5:.0f}%')


def _matrix_picture(counts_KK: np.ndarray) -> Html:
    address = figures.png(confusion.cells(counts_KK))
    image = picture(address, f'confusion matrix of {len(counts_KK)} classes')
    return figure(image, f'{_MATRIX} Correct ones are blue, mistakes red.', class_='matrix')
