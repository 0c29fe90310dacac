import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax.ops import top_k_credit


def scores_and_labels(images=16, classes=7):
    rng = np.random.default_rng(0)
    scores = jnp.asarray(rng.normal(0, 10, (images, classes)), jnp.float32)
    return scores, jnp.asarray(rng.integers(0, classes, images), jnp.int32)


FORMS = [top_k_credit._take_label_scores, top_k_credit._select_label_scores]


@pytest.mark.parametrize('form', FORMS)
def test_each_form_takes_the_score_of_the_label_whatever_the_others_are(form):
    scores, labels = scores_and_labels()
    others = np.arange(7)[None] != np.asarray(labels)[:, None]
    for filler in (np.nan, np.inf, -np.inf):
        own = form(jnp.where(others, jnp.float32(filler), scores), labels[:, None])
        expected = np.asarray(scores)[np.arange(16), np.asarray(labels)]
        np.testing.assert_array_equal(own[:, 0], expected)


@pytest.mark.parametrize('form', FORMS)
def test_the_derivative_of_each_form_is_the_label(form):
    scores, labels = scores_and_labels()
    derivative = jax.grad(lambda x: form(x, labels[:, None]).sum())(scores)
    np.testing.assert_array_equal(derivative, jax.nn.one_hot(labels, 7))


def test_the_form_of_accelerators_has_no_scatter_or_gather():
    scores, labels = scores_and_labels()

    def loss(scores):
        losses = top_k_credit.softmax_cross_entropy(scores, labels)
        return losses.sum(), top_k_credit.credit(scores, labels, 1)

    program = jax.jit(jax.value_and_grad(loss, has_aux=True)).trace(scores)
    text = {p: program.lower(lowering_platforms=(p,)).as_text() for p in ('cpu', 'cuda', 'tpu')}
    for operation in ('scatter', 'gather'):
        assert [p for p in text if operation in text[p]] == ['cpu']


def test_cross_entropy_is_that_of_optax():
    scores, labels = scores_and_labels()
    for function in (
        lambda f: f(scores, labels),
        lambda f: jax.grad(lambda x: f(x, labels).sum())(scores),
    ):
        np.testing.assert_array_equal(
            function(top_k_credit.softmax_cross_entropy),
            function(optax.softmax_cross_entropy_with_integer_labels),
        )
