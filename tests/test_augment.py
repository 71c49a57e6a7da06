"""Augmentation: each change by itself, and what all of them keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from knn_jax.data import augment

pytestmark = pytest.mark.usefixtures("quick")
IMAGE = jax.random.uniform(jax.random.key(0), (9, 9, 2), minval=0.5)
STILL = {"crop": (0, 0), "mirror": False, "angle": 0.0, "shear": 0.0, "scale": 1.0, "move": (0.0, 0.0)}


def moved(image=IMAGE, **change):
    kinds = {"crop": jnp.int32, "mirror": jnp.bool_}
    settings = {k: jnp.asarray(v, kinds.get(k, jnp.float32)) for k, v in (STILL | change).items()}
    return augment.moved(image, **settings)


def cut(image, row, column):
    """The image from there on, of its own size, 0 where it ends."""
    padded = np.pad(image, ((9, 9), (9, 9), (0, 0)))
    return padded[9 + row : 18 + row, 9 + column : 18 + column]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, IMAGE),
        ({"mirror": True}, IMAGE[:, ::-1]),
        ({"crop": (2, -3)}, cut(IMAGE, 2, -3)),
        ({"crop": (1, 4), "mirror": True}, cut(IMAGE, 1, 4)[:, ::-1]),
        ({"angle": np.pi / 2}, np.rot90(IMAGE, -1)),
        ({"move": (1 / 3, -1 / 9)}, cut(IMAGE, -3, 1)),
        ({"scale": 3.0}, IMAGE[3:6, 3:6].repeat(3, 0).repeat(3, 1)),
        # Cropped first: the two rows that the crop cut off do not come back.
        ({"crop": (2, 0), "move": (2 / 9, 0.0)}, cut(cut(IMAGE, 2, 0), -2, 0)),
        ({"crop": (0, 1), "mirror": True, "angle": np.pi}, cut(IMAGE, 0, 1)[::-1]),
    ],
)
def test_each_change_by_hand(change, expected):
    np.testing.assert_array_equal(moved(**change), expected)


def test_a_shear_moves_rows_apart_and_columns_not():
    line = jnp.zeros((9, 9, 2)).at[:, 4].set(1.0)
    found = np.asarray(moved(line, shear=jnp.pi / 4))[..., 0]
    filled = found.any(1)
    assert filled[2:7].all()
    steps = np.diff(found.argmax(1)[filled])
    assert (steps == -1).all()


def test_a_turn_and_a_scale_keep_the_centre():
    point = jnp.zeros((9, 9, 2)).at[4, 4].set(1.0)
    assert moved(point, angle=0.3, shear=0.2, scale=1.1)[4, 4, 0] == 1


SHAPE = (400, 16, 16, 1)
augmented = jax.jit(augment.augment)


def test_every_image_has_numbers_of_its_own():
    x = jnp.broadcast_to(jax.random.uniform(jax.random.key(1), SHAPE[1:]), SHAPE)
    found = np.asarray(augmented(jax.random.key(2), x))
    assert len(np.unique(found.reshape(400, -1), axis=0)) == 400
    np.testing.assert_array_equal(found, augmented(jax.random.key(2), x))
    assert (found != augmented(jax.random.key(3), x)).any((1, 2, 3)).all()


def test_without_the_affine_part_images_are_cropped_and_mirrored_only():
    """Each is one of 9 x 9 crops of the image or of its mirror image."""
    image = np.random.default_rng(0).random((6, 6, 1)).astype(np.float32)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    crops = {
        padded[row : row + 6, column : column + 6][:, ::step].tobytes()
        for row in range(9)
        for column in range(9)
        for step in (1, -1)
    }
    x = jnp.broadcast_to(image, (500, 6, 6, 1))
    found = np.asarray(augment.augment(jax.random.key(0), x, affine=False))
    kinds = {one.tobytes() for one in found}
    assert kinds <= crops
    assert len(kinds) > 140  # of 162


def test_brightness_is_within_a_tenth_and_the_rest_is_black():
    found = np.asarray(augmented(jax.random.key(2), jnp.full(SHAPE, 0.5))).reshape(400, -1)
    factor = found.max(1) / 0.5
    assert ((found == 0) | (found == found.max(1, keepdims=True))).all()
    assert 0.9 <= factor.min() < 0.91
    assert 1.09 < factor.max() <= 1.1
    assert 0.6 < (found > 0).mean() < 0.95


def test_white_stays_white_at_most():
    assert augmented(jax.random.key(0), jnp.ones(SHAPE)).max() == 1


def test_half_are_mirrored_and_all_stay_near():
    """A square left of the centre is found on either side, no further than all moves together reach."""
    x = jnp.zeros(SHAPE).at[:, 6:9, 1:4].set(1.0)
    found = np.asarray(augmented(jax.random.key(3), x))[..., 0]
    seen = found.any((1, 2))
    found = found[seen]
    mass = found.sum((1, 2))
    rows, columns = ((found.sum(axis) * np.arange(16)).sum(1) / mass for axis in (2, 1))
    left = columns < 7.5
    assert 0.75 < seen.mean() < 0.95  # a crop of 4 cuts all of it off, 1 of 9
    assert 0.4 < left.mean() < 0.6
    farthest = 4 + 1.6 + 0.1 * 5.5 + 2 * np.radians(5) * 5.5 + 0.5
    assert 4 < np.abs(rows - 7).max() < farthest
    assert np.abs(columns[left] - 2).max() < farthest
    assert np.abs(columns[~left] - 13).max() < farthest


@pytest.mark.parametrize(
    ("first", "part"), [((0.0, 0.0), (1.0, 1.0)), ((0.25, 0.5), (0.5, 0.25)), ((0.1, 0.6), (0.3, 0.4))]
)
def test_a_part_of_a_ramp_is_a_ramp(first, part):
    """Rows and columns of the result are those of the part, at the centres of pixels."""
    sides = 20, 10
    ramp = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), -1) / 20
    found = augment.stretched(jnp.float32(ramp), jnp.float32(first), jnp.float32(part))
    for axis, side in enumerate(sides):
        rows = (np.arange(side) + 0.5) * part[axis] + first[axis] * side - 0.5
        line = np.moveaxis(np.asarray(found)[..., axis], axis, 0)[:, 3]
        inside = (rows >= 0) & (rows <= side - 1)
        np.testing.assert_allclose(line[inside], rows[inside] / 20, atol=1e-5)


def test_resized_crops_cover_a_share_and_half_are_mirrored():
    """On a ramp from left to right, whose slope is the width of the part, and negative if mirrored."""
    ramp = jnp.broadcast_to(jnp.arange(16, dtype=jnp.float32).reshape(1, 1, 16, 1) / 16, SHAPE)
    found = np.asarray(augment.changed(jax.random.key(1), ramp, "resized_crop"))
    assert found.min() >= 0
    assert found.max() <= 1
    slope = 16 * (found[:, 8, 8, 0] - found[:, 8, 7, 0])
    assert 0.4 < (slope < 0).mean() < 0.6
    width = np.abs(slope)
    assert np.sqrt(0.08 * 3 / 4) - 1e-3 < width.min() < 0.35
    assert 0.95 < width.max() < 1 + 1e-3
    assert len(np.unique(width.round(5))) > 300
