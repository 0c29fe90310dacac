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
    score_B1 = label_scores(scores_BK, labels_B)
    above = (scores_BK > score_B1).sum(axis=1)
    equal = (scores_BK == score_B1).sum(axis=1)
    places = jnp.clip(top - above, 0, equal)
    return places.astype(jnp.float32) / jnp.maximum(equal, 1).astype(jnp.float32)


def softmax_cross_entropy(logits_BK: Array, labels_B: Array) -> Array:
    """Computes the cross-entropy of each image.

    Args:
      logits_BK: (B, K) float32.
      labels_B: (B,) int32, from 0 to K - 1.

    Returns:
      (B,) float32, nats.
    """
    return jax.nn.logsumexp(logits_BK, axis=1) - label_scores(logits_BK, labels_B)[:, 0]


def label_scores(scores_BK: Array, labels_B: Array) -> Array:
    """Takes the score of each image's label.

    On accelerators it is a masked sum: the derivative of indexing is a scatter, which is a kernel
    of its own, whereas XLA fuses the derivative of a masked sum with the operations around it.

    Args:
      scores_BK: (B, K), of any float dtype.
      labels_B: (B,) int32, from 0 to K - 1.

    Returns:
      (B, 1), of the dtype of the scores.
    """
    return jax.lax.platform_dependent(
        scores_BK, labels_B[:, None], cpu=_take_label_scores, default=_select_label_scores
    )


def _take_label_scores(scores_BK: Array, labels_B1: Array) -> Array:
    return jnp.take_along_axis(scores_BK, labels_B1, axis=1)


def _select_label_scores(scores_BK: Array, labels_B1: Array) -> Array:
    is_label_BK = labels_B1 == jnp.arange(scores_BK.shape[1], dtype=labels_B1.dtype)[None]
    zero = jnp.zeros((), scores_BK.dtype)
    return jnp.where(is_label_BK, scores_BK, zero).sum(axis=1, keepdims=True)


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
