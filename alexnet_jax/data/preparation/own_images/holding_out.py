"""Chooses the validation images of a folder that is not split (§2).

About one image in ten of every class is held out. An image is chosen by a hash of its name, so that
it stays where it is when others are added, removed or renamed. The exceptions are small classes: of
two or more images, one at least is validated and one at least is trained on. Where the hashes
choose none, the image with the lowest hash is taken, and where they choose all, that with the
highest hash is not. When images are added to such a class, this one image may change its split, and
no other.
"""

from collections.abc import Sequence

from alexnet_jax.data.preparation.catalogue import hex_hash, is_held_out


def choose_held_out(names: Sequence[str], one_in: int) -> set[str]:
    """Chooses the images of a class that are for validation.

    Args:
      names: the names of all images of the class.
      one_in: one image in so many is chosen.

    Returns:
      At least one name and not all of them, if there are two or more.
    """
    if len(names) < 2:
        return set()
    chosen = _by_hash(names, one_in)
    if not chosen:
        return {min(names, key=hex_hash)}
    return chosen if len(chosen) < len(names) else chosen - {max(names, key=hex_hash)}


def choose_held_out_before(names: Sequence[str], one_in: int) -> set[str]:
    """Chooses images as this program did until 2026-11-26: of a small class, there may be none."""
    chosen = _by_hash(names, one_in)
    return chosen if len(chosen) < len(names) else set()


def _by_hash(names: Sequence[str], one_in: int) -> set[str]:
    return {name for name in names if is_held_out(name, one_in)}
