"""Loss and errors of each image; top-k credit is shared between labels that tie."""

import jax
import jax.numpy as jnp
from jax import Array

TOP = (1, 5)


def credit(scores_BK: Array, labels_B: Array, top: int) -> Array:
    """Computes how far each image's label is among the `top` highest scores.

    Labels that tie for the last places share the credit (2012: layer_kernels.cu:96), so that
    constant scores get the credit of guessing. A label whose own score is NaN has no credit.

    Args:
      scores_BK: (B, K), of any float dtype.
      labels_B: (B,) int32.
      top: the number of places that count.

    Returns:
      (B,) float32, from 0 to 1.
    """
    own = own_scores(scores_BK, labels_B)
    above = (scores_BK > own).sum(axis=1)
    equal = (scores_BK == own).sum(axis=1)
    places = jnp.clip(top - above, 0, equal)
    return places.astype(jnp.float32) / jnp.maximum(equal, 1).astype(jnp.float32)


def softmax_cross_entropy(logits_BK: Array, labels_B: Array) -> Array:
    """Returns the cross-entropy of each image in nats, (B,); see `own_scores` for the arguments."""
    return jax.nn.logsumexp(logits_BK, axis=1) - own_scores(logits_BK, labels_B)[:, 0]


def own_scores(scores_BK: Array, labels_B: Array) -> Array:
    """Takes the score of each image's label, (B, 1).

    The derivative of indexing is a scatter, which accelerators compute in a kernel of its own; that
    of a masked sum is a mask, which joins the computation next to it.

    Args:
      scores_BK: (B, K), of any float dtype.
      labels_B: (B,) int32, from 0 to K - 1.
    """
    return jax.lax.platform_dependent(
        scores_BK, labels_B[:, None], cpu=_take_own_scores, default=_select_own_scores
    )


def _take_own_scores(scores_BK: Array, labels_B1: Array) -> Array:
    return jnp.take_along_axis(scores_BK, labels_B1, axis=1)


def _select_own_scores(scores_BK: Array, labels_B1: Array) -> Array:
    own_BK = labels_B1 == jnp.arange(scores_BK.shape[1], dtype=labels_B1.dtype)[None]
    zero = jnp.zeros((), scores_BK.dtype)
    return jnp.where(own_BK, scores_BK, zero).sum(axis=1, keepdims=True)


def image_results(log_p_BK: Array, labels_B: Array) -> dict[str, Array]:
    """Computes the loss and the errors of each image.

    All programs measure errors with this function, and all of them rank log probabilities, which
    are distinct where probabilities of float32 would all be 0.

    Args:
      log_p_BK: (B, K) float32, log probabilities; if one of an image is NaN, so are all.
      labels_B: (B,) int32.

    Returns:
      'loss' (nats), 'top1_error' and 'top5_error' (from 0 to 1), (B,) float32 each. Where the log
      probabilities are NaN, the loss is NaN and the errors are 1.
    """
    own_B = jnp.take_along_axis(log_p_BK, labels_B[:, None], axis=1)[:, 0]
    errors = {f'top{top}_error': 1 - credit(log_p_BK, labels_B, top) for top in TOP}
    return {'loss': -own_B} | errors
