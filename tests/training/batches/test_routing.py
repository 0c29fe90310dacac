import numpy as np
import pytest

from alexnet_jax.training.batches.routing import Router

MESHES = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 2), (3, 4)]


def follow(router, towers, route, indices):
    """Moves images by the tables as the devices do; returns those of each replica."""
    number = router.devices
    shards = [np.arange(device, 10_000, number) for device in range(number)]
    sent = np.array([[shards[s][route.send[s, r]] for r in range(number)] for s in range(number)])
    parts = [sent[:, r].reshape(-1)[route.receive[r]] for r in range(number)]
    replicas = [np.concatenate(parts[i : i + towers]) for i in range(0, number, towers)]
    return [replica[: router.rows_per_replica] for replica in replicas]


@pytest.mark.parametrize(('replicas', 'towers'), MESHES)
def test_each_replica_gets_its_rows_of_the_batch(replicas, towers):
    """In any order: at random, in that of the data set, and all from one device."""
    for batch_size in (replicas, 7 * replicas, 64 * replicas):
        router = Router(replicas, towers, batch_size)
        orders = {
            'random': np.random.default_rng(0).permutation(5000)[:batch_size],
            'the data set': np.arange(17, 17 + batch_size),
            'one device': np.arange(batch_size) * router.devices,
        }
        for name, indices in orders.items():
            rows = follow(router, towers, router.route(indices), indices)
            np.testing.assert_array_equal(np.concatenate(rows), indices, err_msg=name)


def test_the_usual_program_suffices_for_nearly_every_random_batch():
    """And it moves about a third of the bytes of a sum over all devices of masked rows."""
    router, rng = Router(4, 2, 1024), np.random.default_rng(0)
    usual, any_batch = router.capacities
    sizes = [router.route(rng.permutation(100_000)[:1024]).send.shape[-1] for _ in range(300)]
    assert sizes.count(usual) >= 297
    assert any_batch == router.rows == 128
    by_sum = 7 * 128 + 128  # images: a reduce-scatter over all devices, then an all-gather
    assert router.bytes_received(1, usual) < 0.36 * by_sum
    least = 7 * 16 + 128  # if each device sent as many images as any other
    assert router.bytes_received(1, usual) < 1.5 * least


def test_a_batch_in_the_order_of_the_data_set_comes_evenly_from_all_devices():
    router = Router(4, 2, 1024)
    assert router.route(np.arange(1024)).send.shape[-1] == router.capacities[0]
