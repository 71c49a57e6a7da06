"""The way into the cell of a row: a quadratic program against a few other rows, by its dual."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

HIGHEST = lax.Precision.HIGHEST
MOVES = 600  # of one multiplier, in a turn
TURNS = 30  # each with its own set of pixels at the box
SHARES = (1.0, 0.5, 0.25, 0.1, 0.02)  # of a turn, of which the best is taken
LITTLE = 1e-9  # of the dual's value: a move that gains no more is the last
ROUNDED = 1e-6  # the same of a turn, whose gain is a difference of values

Weights = Float[Array, "*cell row"]
Step = Float[Array, "*cell dim"]


class Cell(NamedTuple):
    """Where a row w is as near as every row z that is there: all steps d from the image with
    low <= d <= high and <w - z, d> >= (|x - w|^2 - |x - z|^2) / 2.

    normal  w - z
    lead    the right-hand side
    """

    normal: Float[Array, "*cell row dim"]
    lead: Weights
    there: Bool[Array, "*cell row"]
    low: Step
    high: Step


def solve(cell: Cell, enough: float | Float[Array, "..."] = jnp.inf) -> Weights:
    """Weights of the rows, at least 0, that maximise the dual; `step` of them is the shortest step
    into the cell, but for the tolerance, or prove that half its square is `enough`, as they do at some
    time where the cell is empty.

    The dual is concave, and quadratic while the same pixels are at the box. Each turn maximises one
    such piece and goes as far towards its maximum as the dual rises. Without a box there is one piece.
    """

    def turn(state):
        weight, before, _, count = state
        total = summed(cell, weight)
        free = (count == 0) | ((total > cell.low) & (total < cell.high))
        normal = jnp.where(free[..., None, :], cell.normal, 0.0)
        held = jnp.where(free, 0.0, step(cell, weight))
        lead = cell.lead - jnp.einsum("...sd,...d->...s", cell.normal, held, precision=HIGHEST)
        gram = jnp.einsum("...sd,...td->...st", normal, normal, precision=HIGHEST)
        aim = _ascend(gram, lead, cell.there, weight, enough)
        ways = [weight + share * (aim - weight) for share in SHARES]
        values = jnp.stack([jnp.sum(way * cell.lead, -1) - loss(cell, way) for way in ways])
        best = jnp.argmax(values, 0)[None]
        after = values.max(0)
        aim = jnp.take_along_axis(jnp.stack(ways), best[..., None], 0)[0]
        weight = jnp.where((after >= before * (1 - ROUNDED))[..., None], aim, weight)
        rises = (after > before * (1 + ROUNDED)) & (after < enough)
        return weight, jnp.maximum(after, before), rises, count + 1

    def more(state):
        return state[2].any() & (state[3] < TURNS)

    nothing = jnp.zeros_like(cell.lead)
    state = nothing, nothing[..., 0], jnp.ones(nothing.shape[:-1], bool), jnp.int32(0)
    return lax.while_loop(more, turn, state)[0]


def summed(cell: Cell, weight: Weights) -> Step:
    """The sum of the normals by weight."""
    return jnp.einsum("...s,...sd->...d", weight, cell.normal, precision=HIGHEST)


def step(cell: Cell, weight: Weights) -> Step:
    """The step in the box that goes furthest along the sum for its length."""
    return jnp.clip(summed(cell, weight), cell.low, cell.high)


def loss(cell: Cell, weight: Weights) -> Float[Array, "*cell"]:
    """What the dual takes off <weight, lead>: <sum, d> - |d|^2 / 2 at its step d, all terms >= 0.

    By weak duality |d|^2 / 2 >= <weight, lead> - loss for every step d into the cell.
    """
    total = summed(cell, weight)
    taken = jnp.clip(total, cell.low, cell.high)
    return jnp.sum(taken * (total - taken / 2), -1)


def radius(cell, weight, to_w, to_z, relative):
    """The radius that the weights prove, less rounding: of the program, and of the distances that
    the vote measures at any point within that radius. `to_w` and `to_z` are squared."""
    lost = loss(cell, weight)
    value = jnp.sum(weight * cell.lead, -1) - lost
    reach = jnp.sqrt(2 * jnp.maximum(value, 0.0))[..., None]
    there = jnp.square(jnp.sqrt(to_w) + reach) + jnp.square(jnp.sqrt(to_z) + reach)
    length = jnp.sqrt(jnp.sum(jnp.square(step(cell, weight)), -1, keepdims=True))
    lengths = jnp.sqrt(jnp.sum(jnp.square(cell.normal), -1))
    wrong = jnp.sum(weight * ((to_w + to_z + there) / 2 + length * lengths), -1) + 2 * lost
    return jnp.sqrt(2 * jnp.maximum(value - relative * wrong, 0.0))


def margin(to_w, to_z, lengths, relative, absolute):
    """What rounding can make of half a difference of squared distances, on the way to w too."""
    return relative * jnp.maximum(jnp.maximum(to_w, to_z), lengths) + absolute * jnp.sqrt(lengths)


def _ascend(gram, lead, there, weight, enough):
    """The maximum of <lead, m> - m'Gm / 2 over m >= 0: the coordinate that gains most moves, again
    and again."""
    diagonal = jnp.diagonal(gram, axis1=-2, axis2=-1)
    usable = there & (diagonal > 0)
    size = jnp.where(usable, diagonal, 1.0)
    place = jnp.arange(lead.shape[-1]).reshape((1,) * (lead.ndim - 1) + (-1,))

    def move(state):
        weight, slope, value, _, count = state
        change = jnp.where(usable, jnp.maximum(slope / size, -weight), 0.0)
        gain = change * (slope - size * change / 2)
        best = jnp.argmax(gain, -1, keepdims=True)
        gain, change = (jnp.take_along_axis(leaf, best, -1) for leaf in (gain, change))
        column = jnp.take_along_axis(gram, best[..., None, :], -1)[..., 0]
        weight = jnp.where(place == best, jnp.maximum(weight + change, 0.0), weight)
        gain = gain[..., 0]
        rises = (gain > LITTLE * abs(value)) & (value < enough)
        return weight, slope - change * column, value + gain, rises, count + 1

    def more(state):
        return state[3].any() & (state[4] < MOVES)

    pull = jnp.einsum("...st,...t->...s", gram, weight, precision=HIGHEST)
    value = jnp.sum(weight * (lead - pull / 2), -1)
    state = weight, lead - pull, value, jnp.ones(value.shape, bool), jnp.int32(0)
    return lax.while_loop(more, move, state)[0]
