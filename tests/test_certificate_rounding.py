"""What bounds allow for: rows left out, float32's rounding, rounded features. Each factor is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from points import images

from knn_jax import certificates, classifiers, neighbors
from knn_jax.certificates import branch_and_bound, cell_qp, order_statistics
from knn_jax.certificates.voronoi import every_cell

pytestmark = pytest.mark.usefixtures("quick")
exactly = [certificates.margin, certificates.voronoi]
both = pytest.mark.parametrize("certify", exactly, ids=["margin", "voronoi"])
HIGH = 64  # dimensions, of which float32's sums are rounded


@pytest.fixture
def alone(monkeypatch):
    """Pixels are not rounded, so that nothing is allowed for but the certificate's own arithmetic."""
    monkeypatch.setattr(order_statistics, "FEATURE_ERROR", 0.0)
    jax.clear_caches()
    yield
    monkeypatch.undo()
    jax.clear_caches()


# Rows left out.


@pytest.mark.parametrize("k", [1, 3])
def test_rows_that_voronoi_leaves_out_are_counted_at_their_least(k):
    """On a line, with as few rows looked at as can be; the vote is scanned in float64. Rows of other
    classes on the side of the nearest own row have far bisectors, and others behind have not."""
    rng, scan = np.random.default_rng(k), np.linspace(0, 1, 2001)
    left_out = certified = 0
    for _ in range(10):
        rows = np.round(rng.uniform(size=24), 3).astype(np.float32)
        labels = np.concatenate([np.zeros(8, int), np.ones(16, int)])
        model = classifiers.knn(None, images(rows[:, None]), jnp.asarray(labels, jnp.int32), k=k)
        x = np.concatenate([rows[:8], (rows[:8] + 0.01).clip(0, 1)])[:, None]
        y = jnp.zeros(16, jnp.int32)
        few, every = (
            np.asarray(certificates.voronoi(model, images(x), y, own=n, other=n)) for n in (1, 24)
        )
        order = np.argsort(np.abs(scan[:, None] - rows.astype(np.float64)), 1, kind="stable")[:, :k]
        lost = scan[labels[order].mean(1) > 0.5]
        truth = np.abs(lost[None] - x.astype(np.float64)).min(1)
        assert (few <= truth).all()
        assert (every <= truth).all()
        left_out += (few < every - 1e-3).sum()
        certified += (few > 0).sum()
    assert left_out > 3
    assert certified > 5


@pytest.mark.parametrize(
    ("k", "rows", "own", "looked_at", "left_out"),
    [
        (1, [0.6, 0.8, 0.81, 0.18], 0.1, 0.31, 0.32),
        (3, [0.5, 0.6, 0.79, 0.8, 0.805, 0.81, 0.18, 0.185], 0.1, 0.31, 0.32),
    ],
)
def test_rows_left_out_behind_the_image_decide(k, rows, own, looked_at, left_out):
    """Those that are looked at are before it, behind the own row that decides."""
    own_rows = (k + 1) // 2
    labels = jnp.arange(len(rows)) >= own_rows
    model = classifiers.knn(None, images(np.array(rows)[:, None]), labels.astype(jnp.int32), k=k)
    found = certificates.voronoi(model, images([[0.5]]), jnp.array([0]), own=1, other=1)
    np.testing.assert_allclose(found, [(looked_at - own) / 2], atol=1e-4)
    assert found[0] < (left_out - own) / 2


def test_rounding_is_allowed_for_in_rows_left_out(alone):
    """Of one that is as far behind as the last that is looked at is before, to the last bit."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        way = np.round(rng.uniform(-0.5, 0.5, size=HIGH) * 2**10) / 2**10
        rows = (0.5 + np.array([[0.25], [0.5], [0.5], [-0.5]]) * way).astype(np.float32)
        model = classifiers.knn(None, images(rows), jnp.array([0, 1, 1, 1]), k=1)
        x = np.full((1, HIGH), 0.5, np.float32)
        found = certificates.voronoi(model, images(x), jnp.array([0]), own=1, other=1)
        truth = bisected(x, rows[0], rows[3])
        assert 0.999 * truth[0] < np.float64(found[0]) <= truth[0]


# Rounding of the certificate's own arithmetic.


def bisected(x, own, other):
    """The distance to the bisector of two rows, in float64, of class 0 at `own`."""
    x, own, other = (np.asarray(points, np.float64) for points in (x, own, other))
    lead = np.sum((x - other) ** 2, -1) - np.sum((x - own) ** 2, -1)
    return np.maximum(lead / (2 * np.linalg.norm(own - other, axis=-1)), 0)


def pairs(kind, rng):
    """Two rows and points, in float32, at which one thing is rounded most."""
    rows = rng.uniform(size=(2, HIGH))
    x = rng.uniform(size=(64, HIGH))
    if kind == "near the bisector":
        middle, normal = rows.mean(0), rows[0] - rows[1]
        x -= ((x - middle) @ normal)[:, None] * normal / (normal @ normal)
        x = (x + 1e-4 * rng.uniform(size=(64, 1)) * normal).clip(0, 1)
    if kind == "rows close together":
        rows[1] = rows[0] + 1e-3 * rng.normal(size=HIGH)
    if kind == "close and far in line":
        way = rng.uniform(-0.5, 0.5, size=HIGH)
        rows = 0.5 + way * np.array([[0.9], [0.9 + rng.uniform(4e-4, 2e-3)]])
        x = 0.5 - rng.uniform(size=(64, 1)) * way
    if kind == "far from 0":
        rows, x = (0.9 + 0.005 * rng.normal(size=points.shape) for points in (rows, x))
    if kind == "in line":
        x = rows[0] + rng.uniform(-0.2, 0.45, size=(64, 1)) * (rows[1] - rows[0])
    return rows.clip(0, 1).astype(np.float32), x.clip(0, 1).astype(np.float32)


kinds = pytest.mark.parametrize(
    "kind",
    ["near the bisector", "rows close together", "in line", "close and far in line", "far from 0"],
)


@kinds
@both
def test_rounding_alone_is_allowed_for(alone, certify, kind):
    rng, certified = np.random.default_rng(0), 0
    for _ in range(12):
        rows, x = pairs(kind, rng)
        model = classifiers.knn(None, images(rows), jnp.array([0, 1]), k=1)
        radius = np.asarray(certify(model, images(x), jnp.zeros(64, jnp.int32)), np.float64)
        truth = bisected(x, *rows)
        assert (radius <= truth).all()
        certified += (radius > 0.9 * truth - 1e-6).sum()
    assert certified > 100 or kind != "in line"


@kinds
def test_rounding_alone_is_allowed_for_in_first_bounds(alone, kind):
    """Of cells, by matmuls about the origin, whose rounding is that of norms."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        rows, x = pairs(kind, rng)
        model = classifiers.knn(None, images(rows), jnp.array([0, 1]), k=1)
        y, query = jnp.zeros(64, jnp.int32), jnp.asarray(x)
        own = neighbors.search(query, jnp.asarray(rows), 1, labels=model.labels, only=y)
        norms = jnp.sum(jnp.square(model.banks[0]), -1)
        relative = neighbors.rounding(model.banks[0])
        bound = every_cell(model, norms, relative, query, y, own)
        assert np.isinf(bound[:, 0]).all()
        assert (np.asarray(bound[:, 1], np.float64) <= bisected(x, *rows)).all()


@kinds
def test_rounding_alone_is_allowed_for_in_the_exact_radius(alone, kind):
    """Also of what the vote measures: the upper end is a point that loses it in float64."""
    rng = np.random.default_rng(0)
    for _ in range(4):
        rows, x = pairs(kind, rng)
        model = classifiers.knn(None, images(rows), jnp.array([0, 1]), k=1)
        found = certificates.exact(model, images(x), jnp.zeros(64, jnp.int32))
        truth = bisected(x, *rows)
        assert (np.asarray(found.lower, np.float64) <= truth).all()
        crossed = np.asarray(found.upper, np.float64) > 0
        assert (np.asarray(found.upper, np.float64) >= truth)[crossed].all()
        apart = np.linalg.norm(np.asarray(found.point, np.float64)[:, None] - rows, axis=-1)
        assert (apart[:, 1] <= apart[:, 0])[crossed].all()


@pytest.mark.parametrize(("high", "step"), [(1.0, [0.3, 0.4]), (0.38, [0.196 / 0.6, 0.38])])
def test_weights_prove_no_more_than_the_shortest_step(high, step):
    """Into .6 d1 + .8 d2 >= .5, without and with an edge in the way: none does, and the best does."""
    weight = jnp.linspace(0, 3, 3001)[:, None]
    cell = cell_qp.Cell(
        normal=jnp.broadcast_to(jnp.array([[[0.6, 0.8]]]), (3001, 1, 2)),
        lead=jnp.full((3001, 1), 0.5),
        there=jnp.ones((3001, 1), bool),
        low=jnp.full((3001, 2), -1.0),
        high=jnp.full((3001, 2), high),
    )
    nothing = jnp.zeros((3001, 1))
    proven = cell_qp.radius(cell, weight, nothing, nothing, 0.0)
    assert proven.max() <= np.linalg.norm(step) * (1 + 1e-6)
    np.testing.assert_allclose(proven.max(), np.linalg.norm(step), rtol=1e-4)
    first = cell_qp.Cell(*(leaf[:1] for leaf in cell))
    np.testing.assert_allclose(cell_qp.step(first, cell_qp.solve(first)), [step], rtol=1e-4)
    less = cell_qp.radius(cell, weight, nothing + 2, nothing + 1, 1e-3)  # of squared distances 2 and 1
    reach = np.asarray(proven, np.float64)
    here = 2 + 1 + (2**0.5 + reach) ** 2 + (1 + reach) ** 2
    assert (less < proven)[proven > 0].all()
    lost = np.asarray(cell_qp.loss(cell, weight), np.float64)
    length = np.linalg.norm(np.asarray(cell_qp.step(cell, weight), np.float64), axis=1)
    wrong = np.asarray(weight[:, 0], np.float64) * (here / 2 + length) + 2 * lost
    expected = np.sqrt(np.maximum(reach**2 - 2e-3 * wrong, 0))
    np.testing.assert_allclose(less, expected, atol=2e-3)


@pytest.mark.parametrize("spare", [1, 2])
def test_what_weights_prove_without_rows_holds_whichever_is_left_out_besides(spare):
    """For k = 5 a row and, where one more may be, any other: what is left proves as much."""
    rng, rows, m, slots = np.random.default_rng(0), 40, 3, 6
    normal = rng.normal(size=(rows, 1, m * slots, 3))
    weight, lead = rng.uniform(size=(2, rows, 1, m * slots))
    shape = rows, 1, m * slots
    cell = cell_qp.Cell(*map(jnp.float32, (normal, lead)), jnp.ones(shape, bool), jnp.nan, jnp.nan)
    found = branch_and_bound._without(
        *(cell, jnp.float32(weight), jnp.ones(shape), jnp.ones(shape), 0.0),
        *(jnp.full((rows, 1), spare), (rows, 1, m, slots)),
    )
    parts = (weight[..., None] * normal).reshape(rows, m, slots, 3).sum(1)
    leads = (weight * lead).reshape(rows, m, slots).sum(1)
    proven = 0
    for s in range(slots):
        for t in range(slots) if spare == 2 else [s]:
            left = [i for i in range(slots) if i not in (s, t)]
            size = np.sum(parts[:, left].sum(1) ** 2, -1)
            best = np.maximum(leads[:, left].sum(1), 0) / np.sqrt(size)
            assert (np.asarray(found[:, 0, s], np.float64) <= best * (1 + 1e-5)).all()
            proven += (np.asarray(found[:, 0, s]) > 0.9 * best).sum()
    assert proven > 0 or spare == 2


# Rounded features.

GRID = 2.0**-19  # twice FEATURE_ERROR


def rounded(x):
    """Pixels on a grid, so that each feature is wrong by up to GRID / 2, of a largest norm of 1."""
    return jnp.round(x.reshape(len(x), -1) / GRID) * GRID


@pytest.mark.parametrize("certify", [*exactly, lambda *a, **k: certificates.exact(*a, **k).lower])
def test_what_features_are_rounded_by_is_allowed_for(certify):
    """Between rows at 0 and 1 the vote changes at half a grid step below .5; the points are just below
    what is rounded down."""
    model = classifiers.knn(rounded, images([[0.0], [1.0]]), jnp.array([0, 1]), k=1)
    steps = np.arange(1, 40)
    x = (0.5 - (steps - 0.49) * GRID).astype(np.float32)[:, None]
    radius = np.asarray(certify(model, images(x), jnp.zeros(39, jnp.int32), lipschitz=1.0), np.float64)
    change = np.float32(0.5 - 0.49 * GRID)  # is rounded to .5, where both rows are as near
    change = max(change, np.nextafter(np.float32(0.5 - 0.5 * GRID), np.float32(1)))
    assert rounded(jnp.full((1, 1), change))[0, 0] == 0.5
    assert (radius < 0.5 - 0.5 * GRID - x[:, 0].astype(np.float64) + 1e-12).all()
    assert (radius > 0).any()


def test_what_features_are_rounded_by_is_allowed_for_in_rows_left_out():
    """As far behind as the last that is looked at is before: the vote changes at .11 less about a grid
    step, half of it at either end."""
    rows = 0.5 + np.array([[6.0], [19.0], [20.0], [-20.0]]) / 64
    model = classifiers.knn(rounded, images(rows), jnp.array([0, 1, 1, 1]), k=1)
    x = np.float32(0.5 - 0.45 * GRID)
    ends = np.float32(0.5 - 7 / 64) + np.array([0.45, 0.55]).astype(np.float32) * np.float32(GRID)
    at = np.asarray(rounded(images(ends[:, None])))[:, 0]
    np.testing.assert_array_equal(at == np.float32(0.5 - 7 / 64), [True, False])
    y = jnp.array([0])
    found = certificates.voronoi(model, images([[x]]), y, lipschitz=1.0, own=1, other=1)
    assert 0 < np.float64(found[0]) <= np.float64(x) - np.float64(ends[0])
