import pytest

from alexnet_jax.data.preparation.own_images.holding_out import (
    choose_held_out,
    choose_held_out_before,
)


def names(number, name='cat'):
    return [f'{name}/{i}.jpg' for i in range(number)]


def test_about_one_image_in_ten_is_held_out():
    assert 850 <= len(choose_held_out(names(10_000), 10)) <= 1150


@pytest.mark.parametrize('number', [0, 1, 2, 3, 5, 10, 20])
def test_every_class_of_two_or_more_is_trained_and_validated(number):
    for name in map(str, range(200)):
        chosen = choose_held_out(names(number, name), 10)
        assert chosen <= set(names(number, name))
        if number < 2:
            assert not chosen
        else:
            assert 0 < len(chosen) < number


def test_an_image_keeps_its_split_when_others_are_added():
    """In a class whose hashes choose some images none moves, and in others one at most."""
    moves = []
    for name in map(str, range(300)):
        few, more = names(8, name), names(12, name)
        before, after = choose_held_out(few, 10), choose_held_out(more, 10) & set(few)
        if choose_held_out_before(few, 10):
            assert after == before
        moves.append(len(before ^ after))
    assert max(moves) == 1
    assert sum(moves) < 150


def test_the_order_of_the_images_does_not_matter():
    for name in map(str, range(50)):
        listed = names(6, name)
        assert choose_held_out(listed, 10) == choose_held_out(listed[::-1], 10)


def test_larger_classes_are_split_as_they_were_before():
    for name in map(str, range(50)):
        listed = names(300, name)
        assert choose_held_out(listed, 10) == choose_held_out_before(listed, 10)
