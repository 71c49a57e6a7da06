"""A bank whose images stay on the host decides and is attacked as one on the device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from victims import digits, flat

from knn_jax import attacks, classifiers
from knn_jax.data.stored import Stored

pytestmark = pytest.mark.usefixtures("quick")
KEY = jax.random.key(0)


@pytest.fixture(scope="module", params=["array", "file"])
def pair(request, tmp_path_factory):
    """The same classifier with its images on the device and on the host, and images with labels."""
    model, x, y = digits()
    images = np.asarray(model.images)
    if request.param == "file":
        file = tmp_path_factory.mktemp("images") / "images.npy"
        np.save(file, images)
        images = Stored(file)
    held = classifiers.knn(flat, classifiers.OnHost(images), model.labels, k=model.k)
    return model, held, x[:4], y[:4]


def test_it_decides_alike_and_holds_no_images(pair):
    model, held, x, _ = pair
    np.testing.assert_array_equal(held.votes(x), model.votes(x))
    assert len(jax.tree.leaves(held)) == len(jax.tree.leaves(model)) - 1


@pytest.mark.parametrize("row", [3, np.arange(5), np.array([[7, 7], [0, 199]]), slice(2, 9)])
def test_it_is_indexed_as_an_array(pair, row):
    """Also inside jit, and of a batch of row numbers, where those are arrays."""
    model, held, *_ = pair
    if not isinstance(row, slice):
        row = np.asarray(row)
        found = jax.jit(lambda rows: held.images[rows])(row)
        np.testing.assert_array_equal(found, model.images[row])
    if np.ndim(row) and not isinstance(row, slice):
        found = jax.jit(jax.vmap(lambda rows: held.images[rows]))(row)
        np.testing.assert_array_equal(found, model.images[row])
    np.testing.assert_array_equal(held.images[row], model.images[row])


def test_rivals_are_the_same(pair):
    model, held, x, y = pair
    np.testing.assert_array_equal(model.rivals(x, y, 3), held.rivals(x, y, 3))


def test_an_attack_finds_the_same(pair):
    model, held, x, y = pair
    attack = attacks.Boundary(steps=1)
    one, other = (attack(KEY, victim, x, y, norm="l2") for victim in (model, held))
    np.testing.assert_array_equal(one.image, other.image)
    assert np.isfinite(one.norm).all()


def test_images_too_large_for_a_device_cost_it_nothing():
    """Bytes of 30 GB that take no memory either, for all are one image."""
    model, *_ = digits()
    rows = 200_000
    images = np.broadcast_to(np.zeros((224, 224, 3), np.uint8), (rows, 224, 224, 3))

    def pooled(x):
        return x[:, :4, :4, 0].reshape(len(x), -1)

    tiny = classifiers.knn(pooled, classifiers.OnHost(images[:200]), model.labels, k=3)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), tiny)
    whole = dataclasses.replace(shapes, images=classifiers.OnHost(images))
    one = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    program = jax.jit(lambda model, x, y: model.rivals(x, y, 2)).lower(whole, one, label).compile()
    memory = program.memory_analysis()
    assert memory.argument_size_in_bytes < 2 * 4 * rows * 17
    assert memory.temp_size_in_bytes < 2**26


def test_large_images_are_banked_on_the_host_and_others_on_the_device():
    few, many = (np.broadcast_to(np.uint8(51), (rows, 1024, 1024, 1)) for rows in (1, 512))
    assert isinstance(classifiers.banked(many), classifiers.OnHost)
    np.testing.assert_array_equal(classifiers.banked(few), np.float32(51) / np.float32(255))
