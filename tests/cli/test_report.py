"""The report program on a short run, and its page in a browser."""

import json
import os
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from contextlib import contextmanager

import numpy as np
import pytest

import nets
import runs
from alexnet_jax.reporting import page, sections
from alexnet_jax.reporting.markup import joined

CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), ''
)
ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run']
ARGUMENTS += ['--disable-background-networking', '--disable-component-update', '--disable-sync']
PARTS = ['run', 'curves', 'filters', 'examples', 'neighbours', 'confusions', 'settings']


def report(*arguments):
    return runs.run([sys.executable, '-m', 'alexnet_jax.report', *map(str, arguments)])


@pytest.fixture(scope='module')
def workdir(trained_run):
    """A short run on the digits."""
    return trained_run


@pytest.fixture(scope='module')
def ablations(tmp_path_factory):
    row = {'name': 'paper', 'claim': 'a <claim>', 'paper': None, 'log': '1.4', 'errors': [0.5]}
    row |= {'mean': 0.5, 'difference': None, 'low': None, 'high': None, 'minutes': 1.0}
    file = tmp_path_factory.mktemp('ablations') / 'some.json'
    results = {'config': 'digits', 'seeds': [0], 'command': 'python', 'rows': [row]}
    file.write_text(json.dumps(results))
    return file


@pytest.fixture(scope='module')
def complete_page(workdir, ablations, tmp_path_factory):
    """The page of the run with all optional sections."""
    out = tmp_path_factory.mktemp('pages') / 'complete.html'
    code, printed, err = report(
        *(f'--workdir={workdir}', f'--out={out}', '--images=4', f'--ablations={ablations}'),
        *(f'--relu={workdir}', f'--tanh={workdir}'),
    )
    assert code == 0, err
    assert printed.splitlines()[-1] == str(out)
    return out


def text_of(html):
    """Returns the text of a page, without its style sheet."""
    root = ET.fromstring(html.removeprefix('<!doctype html>'))
    root.find('head').remove(root.find('head/style'))
    return ' '.join(root.itertext())


@pytest.mark.slow
def test_the_page_agrees_with_the_log_of_the_run(workdir, complete_page):
    text = complete_page.read_text()
    last = [line for line in runs.metrics(workdir) if 'eval/top1_error' in line][-1]
    named = re.findall(r'<div class="big">([\d.]+)\xa0%</div>', text)
    names = (
        'eval/top1_error',
        'eval/top5_error',
        'eval_5_views/top1_error',
        'eval_5_views/top5_error',
    )
    assert [float(x) / 100 for x in named] == pytest.approx([last[n] for n in names], abs=6e-5)
    assert '<title>short: AlexNet on digits</title>' in text
    assert 'optimizer.batch_size = 128' in text
    assert text.count('colourfulness 0.') == 2
    assert 'no colour can be learned' in text
    assert '<span>--images=4</span>' in text
    assert len(re.findall(r'<ol class="bars">', text)) == 4
    assert 'a &lt;claim&gt;' in text
    assert 'continued to step' not in text
    assert not re.search(r'\bNone\b', text_of(text))
    assert 'http' not in text
    assert '<script' not in text


@pytest.mark.slow
def test_a_run_in_training_is_shown_by_its_newest_checkpoint(workdir, tmp_path):
    """A note says what has been logged since; without flags there are no optional sections."""
    folder = shutil.copytree(workdir, tmp_path / 'run')
    steps = sorted(int(x.name) for x in (folder / 'checkpoints').iterdir() if x.name.isdigit())
    shutil.rmtree(folder / 'checkpoints' / str(steps[-1]))
    code, printed, err = report(f'--workdir={folder}')
    assert code == 0, err
    assert printed.splitlines()[-1] == str(folder / 'report.html')
    text = (folder / 'report.html').read_text()
    assert f'continued to step {steps[-1]}:' in text
    assert f'checkpoint at step {steps[-2]}.' in text
    assert 'id="relu"' not in text
    assert 'id="ablations"' not in text
    assert len(re.findall(r'<ol class="bars">', text)) == 8


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'name the folder of the run: --workdir=DIR'),
        (['--workdir=/no/such'], '/no/such is not the workdir of a run'),
        (['--with=a'], 'a comparison needs from 2 to 24 runs, that of --workdir included, not 1'),
        (['--with=a,b'], 'a is not the workdir of a run'),
        (['--with=', '--workdir=.'], '--with= is empty'),
        (['--with=a,b', '--relu=a', '--tanh=b'], '--relu is shown in the report of a run'),
        (['--workdir=.', '--relu=x'], 'give both --relu=DIR and --tanh=DIR'),
        (
            ['--workdir=.', '--ablations=pyproject.toml'],
            'pyproject.toml is not a table of ablations',
        ),
        (['--workdir=.', '--images=0'], '0 is not an integer in the range [1, 10000]'),
        (['--workdir=.', '--out=/no/such/page.html'], 'there is no folder /no/such'),
        (['--workdir=.', '--out=tests'], '--out=tests is a folder: give the name of a file'),
        (['--workdir=.', '--out=/proc/x'], 'cannot write to /proc'),
        (['--workdir=.', '--out=config.json'], '--out=config.json is a file that the run needs'),
        (['--workdir=.', '--out=/dev/null'], 'is not a file that can be replaced'),
        (['--workdir=.', '--out='], '--out'),
        (['--workdir=.', '--relu=x', '--tanh='], '--tanh'),
        (['--workdir=.', '--images=1000000'], 'is not an integer in the range [1, 10000]'),
        (['--workdir=' + 'a' * 300], 'File name too long'),
        (['--workdir=.', '--folder=/no/such'], '--folder=/no/such is not a folder'),
        (['--workdir=.', '--data_dir=hdfs://a'], '--data_dir=hdfs://a is an address'),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    code, _, err = report(*arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1, err


@pytest.mark.slow
def test_a_run_without_a_checkpoint_is_a_mistake(workdir, tmp_path):
    shutil.copy(workdir / 'config.json', tmp_path)
    code, _, err = report(f'--workdir={tmp_path}')
    assert code == 2
    assert 'has no checkpoint yet' in err
    assert len(err.strip().splitlines()) == 1, err


@contextmanager
def browser():
    if not CHROMIUM:
        assert os.environ.get('CI_BROWSER') != '1', 'CI_BROWSER=1, but there is no Chromium'
        pytest.skip('there is no Chromium to open the page in')
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextmanager
def opened(chromium, file, width, scheme='light'):
    """Opens the page in a window, and asserts that it logs no errors and fetches nothing."""
    context = chromium.new_context(
        viewport={'width': width, 'height': 800}, color_scheme=scheme, java_script_enabled=True
    )
    tab, messages, requests = context.new_page(), [], []
    tab.on('console', lambda message: messages.append(message.text))
    tab.on('pageerror', lambda error: messages.append(str(error)))
    tab.on('request', lambda request: requests.append(request.url))
    tab.goto(file.as_uri())
    yield tab
    context.close()
    assert messages == []
    assert [url for url in requests if not url.startswith('data:')] == [file.as_uri()]


WIDTH = 'document.documentElement.scrollWidth'
MISSING_IMAGES = '[...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).length'
# Elements beyond the right edge of the window, except in boxes that scroll.
OUTSIDE = """[...document.querySelectorAll('main *')].filter(
  e => !e.closest('.scroll, svg') && e.getBoundingClientRect().right > innerWidth + 0.5
).map(e => e.outerHTML.slice(0, 200))"""
BACKGROUND = 'getComputedStyle(document.body).backgroundColor'


@pytest.mark.slow
def test_the_page_in_a_browser(complete_page):
    """On a phone and on a wide screen, all pictures are shown and nothing is too wide."""
    with browser() as chromium:
        for width in (400, 1200):
            with opened(chromium, complete_page, width) as tab:
                assert tab.evaluate('document.images.length') == 2 + 4 + 5 * 7
                assert tab.evaluate(MISSING_IMAGES) == 0
                assert tab.evaluate(WIDTH) <= width
                assert tab.evaluate(OUTSIDE) == []
                ids = tab.eval_on_selector_all('section', 'all => all.map(s => s.id)')
                assert [name for name in ids if name in PARTS] == PARTS
                assert {'relu', 'ablations'} < set(ids)
                for name in ids:
                    assert tab.locator(f'#{name} h2').is_visible()
                    assert tab.locator(f'nav a[href="#{name}"]').is_visible()
                assert tab.eval_on_selector_all('svg', 'all => all.length') == 4
                alternatives = tab.eval_on_selector_all('img', 'all => all.map(i => i.alt)')
                assert all(alternatives)


@pytest.mark.slow
def test_runs_compared_in_a_browser(tmp_path):
    """The key of each run has the colour of its curves, on a phone and on a wide screen."""
    folders = [
        runs.logged(tmp_path / f'run {n}' / ('long' * 20), [0.9, 0.1, n / 50]) for n in (0, 1)
    ]
    out = tmp_path / 'both.html'
    code, printed, err = report(*(f'--with={folder}' for folder in folders), f'--out={out}')
    assert (code, err, printed.strip()) == (0, '', str(out))
    colour = 'all => all.map(path => getComputedStyle(path).stroke)'
    with browser() as chromium:
        for width in (400, 1200):
            with opened(chromium, out, width) as tab:
                assert tab.evaluate(WIDTH) <= width
                assert tab.evaluate(OUTSIDE) == []
                keys = tab.eval_on_selector_all('svg.key path', colour)
                assert len(set(keys)) == 2
                assert tab.eval_on_selector_all('.pair svg g path', colour) == keys * 3


@pytest.mark.slow
def test_the_page_in_dark_mode_and_in_print(complete_page, tmp_path):
    """Dark mode is light on dark; print is always dark on white, and shows the settings."""
    with browser() as chromium, opened(chromium, complete_page, 1200, 'dark') as tab:
        assert sum(map(int, re.findall(r'\d+', tab.evaluate(BACKGROUND))[:3])) < 150
        ink = tab.evaluate('getComputedStyle(document.querySelector("svg text")).fill')
        assert sum(map(int, re.findall(r'\d+', ink)[:3])) > 500
        assert not tab.locator('pre').is_visible()
        tab.emulate_media(media='print', color_scheme='dark')
        assert tab.evaluate(BACKGROUND) == 'rgba(0, 0, 0, 0)'
        assert (
            tab.evaluate("getComputedStyle(document.querySelector('h1')).color")
            == 'rgb(29, 29, 27)'
        )
        assert tab.locator('pre').bounding_box()['height'] > 200
        tab.emulate_media(media='null')
        printed = tmp_path / 'page.pdf'
        tab.pdf(path=printed, format='A4')
        data = printed.read_bytes()
        assert data.startswith(b'%PDF')
        assert 2 <= len(re.findall(rb'/Type\s*/Page\b', data)) <= 12


@pytest.mark.slow
def test_long_names_and_many_classes_fit_on_the_page(tmp_path):
    """Names have no spaces; twenty classes are in a table, a thousand in a picture."""
    rng = np.random.default_rng(0)
    parts = []
    for count in (3, 20, 1000):
        classes = [f'<{k}>&{"long_name_" * 7}' for k in range(count)]
        labels = rng.integers(0, count, 60, np.int32)
        log_p = nets.log(rng.dirichlet(np.ones(count), 60))

        def image(number):
            return np.full((300, 300, 3), number, np.uint8)

        vectors = rng.normal(size=(60, 8)).astype(np.float32)
        bodies = [
            sections.predictions(image, log_p, labels, classes, 5),
            sections.nearest(image, vectors, labels, classes),
            sections.confusions(log_p, labels, classes),
        ]
        parts.append(page.Section(f's{count}', classes[0], joined(*(s.body for s in bodies))))
    kernel = rng.normal(size=(4, 11, 11, 3, 48))
    parts.append(sections.filters(kernel, grey=False))
    file = tmp_path / 'page.html'
    file.write_text(page.page('x' * 80, page.paragraph('y' * 200), parts), encoding='utf-8')
    with browser() as chromium, opened(chromium, file, 400) as tab:
        assert tab.evaluate(WIDTH) <= 400
        assert tab.evaluate(OUTSIDE) == []
        assert tab.evaluate(MISSING_IMAGES) == 0
        assert tab.locator('strong').first.inner_text().startswith('<')
