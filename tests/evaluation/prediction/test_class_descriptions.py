import pytest

from alexnet_jax.evaluation.prediction import class_descriptions
from alexnet_jax.runtime.user_errors import UserError

CLASSES = ('n01440764', 'n01443537', 'golden retriever')


def read(tmp_path, data):
    file = tmp_path / 'words.txt'
    file.write_bytes(data)
    return class_descriptions.read(file, '--names')


def test_lines_as_in_the_files_of_imagenet(tmp_path):
    """Descriptions are found by the class, in any order of the lines; a tab allows spaces in it."""
    pairs = read(
        tmp_path,
        '\ufeffgolden retriever\ta dog\r\n\r\n'
        'n01443537 goldfish, Carassius auratus\r\nn01440764 tench, Tinca tinca\n'.encode(),
    )
    descriptions, complaint = class_descriptions.match(pairs, CLASSES, '--names')
    assert descriptions == ('tench, Tinca tinca', 'goldfish, Carassius auratus', 'a dog')
    assert complaint == ''


def test_wordnet_ids_without_words_are_noticed():
    ids = ('n01440764', 'n01443537')
    assert class_descriptions.are_missing(ids, ('', ''))
    assert not class_descriptions.are_missing(ids, ('tench', ''))
    assert not class_descriptions.are_missing(('7', 'n01443537'), ('', ''))


def test_what_does_not_fit_is_told_in_one_line(tmp_path):
    pairs = read(tmp_path, b'n01440764 tench\nn01440764 a fish\nn9 x\nn8 y\n')
    descriptions, complaint = class_descriptions.match(pairs, CLASSES, '--names')
    assert descriptions == ('a fish', '', '')
    assert complaint == (
        '--names and the net have different classes; not in the net: n8, n9; '
        'not described: n01443537, golden retriever; '
        'described twice, the last one counts: n01440764'
    )


@pytest.mark.parametrize('data', [b'', b'n1 x\nn2 y\n'])
def test_a_file_of_another_net_is_refused(tmp_path, data):
    with pytest.raises(UserError, match='describes no class of the net: its classes are n01440764'):
        class_descriptions.match(read(tmp_path, data), CLASSES, '--names')


def test_a_file_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'words\.txt is not text in UTF-8'):
        read(tmp_path, b'\xff\xfe\x00')
    with pytest.raises(UserError, match=r'no\.txt cannot be read: No such file'):
        class_descriptions.read(tmp_path / 'no.txt', '--names')
    with pytest.raises(UserError, match='cannot be read: Is a directory'):
        class_descriptions.read(tmp_path, '--names')
