"""Random changes that leave an image's class as it is, for training."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

CROP = 4  # pixels, either way
TURN = SHEAR = math.radians(5)  # either way
MOVE = 0.1  # of the side, either way
SCALE = BRIGHTNESS = 0.1  # either way of 1
AREA = 0.08, 1.0  # of the image, that a resized crop covers
ASPECT = 3 / 4, 4 / 3  # its width over its height, where the image is square


def changed(
    key: Key[Array, ""],
    x: Float[Array, "batch height width channel"],
    how: Literal["crop", "affine", "resized_crop"],
) -> Float[Array, "batch height width channel"]:
    """Each image changed so, by numbers of its own."""
    if how == "resized_crop":
        return resized_crop(key, x)
    return augment(key, x, affine=how == "affine")


def augment(
    key: Key[Array, ""], x: Float[Array, "batch height width channel"], *, affine: bool = True
) -> Float[Array, "batch height width channel"]:
    """Each image cropped and mirrored, and where `affine` turned and brightened, by numbers of its own.

    The augmentation of CIFAR-10 in Sitawarin & Wagner 2019, all uniform: a crop of the image padded by
    4; a mirror image half of the time; a turn and a horizontal shear of up to 5 degrees, a move of up
    to a tenth of the side and a scale of 0.9 to 1.1; and a brightness of 0.9 to 1.1.
    """
    crop, mirror, change, bright = jax.random.split(key, 4)
    count = len(x)
    drawn = jax.random.uniform(change, (5, count), x.dtype, -1.0, 1.0)
    angle, shear, scale, *move = drawn if affine else jnp.zeros_like(drawn)
    found = jax.vmap(moved)(
        x,
        jax.random.randint(crop, (count, 2), -CROP, CROP + 1),
        jax.random.bernoulli(mirror, shape=(count,)),
        TURN * angle,
        SHEAR * shear,
        1 + SCALE * scale,
        MOVE * jnp.stack(move, 1),
    )
    if not affine:
        return found
    factor = jax.random.uniform(bright, (count, 1, 1, 1), x.dtype, 1 - BRIGHTNESS, 1 + BRIGHTNESS)
    return jnp.clip(factor * found, 0.0, 1.0)


def resized_crop(
    key: Key[Array, ""], x: Float[Array, "batch height width channel"]
) -> Float[Array, "batch height width channel"]:
    """A part of each image, resized bilinearly to the whole, and mirrored half of the time.

    The part has 8% to 100% of the area and an aspect of 3/4 to 4/3, uniform in its logarithm (Szegedy
    et al. 2015, arXiv:1409.4842), its sides cut to those of the image, its place uniform.
    """
    area, aspect, place, mirror = jax.random.split(key, 4)
    count = (len(x),)
    area = jax.random.uniform(area, count, x.dtype, *AREA)
    aspect = jnp.exp(jax.random.uniform(aspect, count, x.dtype, *map(math.log, ASPECT)))
    part = jnp.minimum(jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)], 1), 1.0)
    first = jax.random.uniform(place, (*count, 2), x.dtype) * (1 - part)
    found = jax.vmap(stretched)(x, first, part)
    mirror = jax.random.bernoulli(mirror, shape=(*count, 1, 1, 1))
    return jnp.where(mirror, found[:, :, ::-1], found)


def stretched(
    image: Float[Array, "height width channel"], first: Float[Array, "2"], part: Float[Array, "2"]
) -> Float[Array, "height width channel"]:
    """The part of the image that begins at `first` (down, right; in sides), bilinearly as the whole."""
    sides = jnp.array(image.shape[:2], image.dtype)
    moves = -first * sides / part
    found = jax.image.scale_and_translate(
        image, image.shape, (0, 1), 1 / part, moves, "linear", antialias=False
    )
    return jnp.clip(found, 0.0, 1.0)  # rounding leaves it


def moved(
    image: Float[Array, "height width channel"],
    crop: Int[Array, "2"],
    mirror: Bool[Array, ""],
    angle: Float[Array, ""],
    shear: Float[Array, ""],
    scale: Float[Array, ""],
    move: Float[Array, "2"],
) -> Float[Array, "height width channel"]:
    """The image cropped from `crop` (rows, columns) on, mirrored, then changed about its centre.

    Angles are in radians, `move` in sides (down, right); each pixel is the nearest, or 0 from outside.
    Crop and mirror image move whole pixels, so that reading once does the same as one after another.
    """
    size = jnp.array(image.shape[:2]).reshape(2, 1, 1)
    centre = (size.astype(image.dtype) - 1) / 2
    place = jnp.indices(image.shape[:2]).astype(image.dtype)
    row, column = place - centre - move.reshape(2, 1, 1) * size.astype(image.dtype)
    # The inverse of scale [cos angle, -sin(angle + shear); sin angle, cos(angle + shear)].
    across = jnp.cos(angle + shear) * column + jnp.sin(angle + shear) * row
    down = jnp.cos(angle) * row - jnp.sin(angle) * column
    place = jnp.stack([down, across]) / (scale * jnp.cos(shear)) + centre
    place = jnp.round(place).astype(jnp.int32)
    cut = _inside(place, size)
    row, column = place
    column = jnp.where(mirror, image.shape[1] - 1 - column, column)
    place = jnp.stack([row, column]) + crop.reshape(2, 1, 1)
    there = (cut & _inside(place, size))[..., None]
    return jnp.where(there, image[place[0], place[1]], 0.0)


def _inside(place, size):
    return ((place >= 0) & (place < size)).all(0)
