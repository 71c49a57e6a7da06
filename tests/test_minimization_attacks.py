"""What every attack for the smallest perturbation keeps, one list of values against one tiny victim.

A new attack is tested by adding it to the list. All properties share the shapes of the victim, so that
one program for each attack, norm and kind of victim serves them all.
"""

import dataclasses
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from victims import flat, lengths

from knn_jax import attacks, classifiers, values
from knn_jax.attacks import MinimizationAttack
from knn_jax.classifiers import Votes

pytestmark = pytest.mark.usefixtures("quick")
KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
# Each with how much farther than the nearest boundary of a linear classifier it may stop.
UNDER_TEST = [
    (attacks.MinimumNorm(steps=40, starts=3, refresh=10), 1.03),
    (attacks.Guided(guides=6, constant=1.0, steps=40, rounds=6), 1.3),
    (attacks.Hinged(guides=8, constant=1.0, learning_rate=0.05, steps=60, rounds=8, refresh=10), 1.3),
    (attacks.CarliniWagner(constant=1.0, steps=60, rounds=6, learning_rate=0.03), 1.1),
    (attacks.DeepFool(), 1.03),
    (attacks.LBFGS(steps=20, rounds=5), 1.03),
    (attacks.FGSM(sizes=200), 1.03),
    (attacks.IFGSM(steps=4, sizes=60), 1.03),
    (attacks.Boundary(steps=800), 1.03),
    (attacks.BlendedNoise(directions=20), 20.0),
]
MINIMIZATION_ATTACKS = [attack for attack, _ in UNDER_TEST]
FACTORS = {type(attack): factor for attack, factor in UNDER_TEST}
each = pytest.mark.parametrize("attack", MINIMIZATION_ATTACKS, ids=lambda attack: type(attack).__name__)
each_norm = pytest.mark.parametrize(
    ("attack", "norm"),
    [(attack, norm) for attack in MINIMIZATION_ATTACKS for norm in attack.norms],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)

# Two classes about two grey patterns that cross no edge of the box.
RNG = np.random.default_rng(0)
PATTERN = RNG.choice([-0.06, 0.06], (1, *SHAPE))
SIGN = np.where(np.arange(48) % 2, 1.0, -1.0)[:, None, None, None]
ROWS = jnp.asarray(0.5 + SIGN * PATTERN + 0.05 * RNG.normal(size=(48, *SHAPE)), jnp.float32)
LABELS = jnp.arange(48, dtype=jnp.int32) % 2
X = jnp.asarray(0.5 + SIGN[:5] * PATTERN + 0.04 * RNG.normal(size=(5, *SHAPE)), jnp.float32)
Y = LABELS[:5].at[-1].set(1 - LABELS[4])  # the last is wrong without an attack
W = np.asarray(PATTERN.reshape(-1) * RNG.uniform(0.7, 1.3, 16), np.float32)
TRACES = []


def features(x):
    """Pixels, and a record of each trace."""
    TRACES.append("features")
    return flat(x)


def logits(parameters, x):
    TRACES.append("logits")
    weights, bias = parameters
    return flat(x) @ weights + bias


def rows(images=ROWS, labels=LABELS):
    return classifiers.knn(features, images, labels, k=3)


def network(weights=W):
    """Class 1 where weights @ (x - 0.5) is above 0."""
    parameters = jnp.stack([-weights, weights], 1), jnp.array([[1.0, -1.0]]) * weights.sum() / 2
    return classifiers.network(Partial(logits, parameters), ROWS, LABELS)


@pytest.fixture(scope="module")
def victim(quick):
    model = rows()
    np.testing.assert_array_equal(model.right(X, Y), [True] * 4 + [False])
    return model


@pytest.fixture(scope="module")
def found(victim):
    """What each attack finds, made once."""
    made = {}

    def find(attack, norm):
        case = type(attack), norm
        if case not in made:
            made[case] = attack(KEY, victim, X, Y, norm=norm)
        return made[case]

    return find


def test_every_attack_for_the_smallest_perturbation_is_in_the_list():
    public = {value for value in vars(attacks).values() if inspect.isclass(value)}
    concrete = {kind for kind in public if issubclass(kind, MinimizationAttack)} - {MinimizationAttack}
    assert concrete == {type(attack) for attack in MINIMIZATION_ATTACKS}


@each_norm
def test_what_fools_lies_in_the_box_and_is_judged_by_the_hard_vote(found, victim, attack, norm):
    result = found(attack, norm)
    assert result.success.all()
    assert (np.asarray(result.image) >= 0).all()
    assert (np.asarray(result.image) <= 1).all()
    np.testing.assert_array_equal(victim.right(result.image, Y), [False] * 5)
    np.testing.assert_allclose(result.norm, lengths(norm, np.float64(result.image) - X), rtol=1e-6)
    assert (result.norm[:4] > 0).all()
    assert not result.exhausted.any()
    assert result.gradients.dtype == result.forwards.dtype == jnp.int32


@each_norm
def test_an_image_wrong_without_an_attack_is_left_alone(found, attack, norm):
    result = found(attack, norm)
    np.testing.assert_array_equal(result.image[-1], X[-1])
    assert result.norm[-1] == 0
    assert not result.no_gradient[-1]


@each_norm
def test_where_nothing_fools_the_clean_image_comes_back_at_inf(attack, norm):
    """Of three neighbours at most one is the only row of class 1."""
    model, y = rows(labels=jnp.zeros(48, jnp.int32).at[-1].set(1)), jnp.zeros(5, jnp.int32)
    result = attack(KEY, model, X, y, norm=norm)
    np.testing.assert_array_equal(result.success, [False] * 5)
    np.testing.assert_array_equal(result.norm, [np.inf] * 5)
    np.testing.assert_array_equal(result.image, X)


@each_norm
def test_another_number_another_key_and_other_images_compile_nothing_new(found, victim, attack, norm):
    found(attack, norm)
    before = len(TRACES)
    other = jax.tree.map(lambda number: 0.9 * number, attack)
    assert other != attack or not jax.tree.leaves(attack)
    other(jax.random.key(1), victim, 1 - X, 1 - Y, norm=norm)
    assert len(TRACES) == before


@pytest.fixture(scope="module")
def on_linear(quick):
    """What each attack finds where the boundary is linear, made once: of a network, or of rows that are
    two points, which vote by their bisector."""
    points = 0.5 + jnp.asarray(W).reshape(1, *SHAPE) * jnp.array([-1.0, 1.0]).reshape(2, 1, 1, 1)
    made = {}

    def find(attack, norm):
        case = type(attack), norm
        if case not in made:
            model = rows(jnp.tile(points, (24, 1, 1, 1))) if attack.needs is Votes else network()
            y = model.predict(X)
            made[case] = model, y, attack(KEY, model, X, y, norm=norm)
        return made[case]

    return find


@each_norm
def test_the_boundary_of_a_linear_classifier_is_reached(on_linear, attack, norm):
    """|w x + b| / |w|_dual, and not much more."""
    _, _, result = on_linear(attack, norm)
    weights = np.float64(W)
    dual = np.linalg.norm(weights, {"l2": 2, "linf": 1}[norm])
    truth = np.abs(np.float64(flat(X - 0.5)) @ weights) / dual
    factor = FACTORS[type(attack)]
    if norm == "l2" and isinstance(attack, attacks.FGSM | attacks.IFGSM):
        factor *= dual * np.sqrt(weights.size) / np.abs(weights).sum()  # every pixel moves alike
    assert result.success.all()
    assert (result.norm >= truth - 1e-5).all()
    assert (result.norm <= factor * truth + 1e-5).all()


@each
def test_an_image_alone_and_inside_the_callers_jit_is_attacked_as_in_a_batch(on_linear, attack):
    model, y, whole = on_linear(attack, attack.norms[0])
    alone = jax.jit(lambda attack, key, *of: attack(key, *of))(attack, KEY, model, X[:1], y[:1])
    np.testing.assert_allclose(alone.norm, whole.norm[:1], rtol=1e-3)
    np.testing.assert_allclose(alone.image, whole.image[:1], atol=1e-3)


@each
def test_images_stay_float32_where_jax_counts_in_64_bits(victim, attack):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        result = jax.eval_shape(attack, KEY, victim, X, Y)
    assert result.image.dtype == result.norm.dtype == jnp.float32


@each
def test_a_source_is_followed_or_refused(attack):
    """A source whose boundary is that of half of the pixels: only these change."""
    model, seen = network(), np.where(np.arange(16) < 8, W, 0)
    if attack.needs is Votes:
        model = rows()
    if attack.follows is None:
        with pytest.raises(ValueError, match="source"):
            attack(KEY, model, X, Y, source=network(seen))
        return
    with pytest.raises(ValueError, match=r"object lacks .*soft_votes"):
        attack(KEY, model, X, Y, source=object())
    result = attack(KEY, model, X, model.predict(X), source=network(seen))
    changed = np.abs(flat(result.image - X)).max(0) > 1e-4
    np.testing.assert_array_equal(changed, seen != 0)


@each
def test_what_cannot_be_attacked_is_refused(victim, attack):
    with pytest.raises(ValueError, match=r"images .*\[0, 1\]"):
        attack(KEY, victim, 3 * X, Y)
    with pytest.raises(ValueError, match=r"labels .* 2 classes"):
        attack(KEY, victim, X, Y + 1)
    with pytest.raises(ValueError, match="norm='l1'"):  # jaxtyping's own error would come first
        inspect.unwrap(MinimizationAttack.__call__)(attack, KEY, victim, X, Y, norm="l1")
    if "linf" not in attack.norms:
        with pytest.raises(ValueError, match="norm='linf'"):
            attack(KEY, victim, X, Y, norm="linf")
    with pytest.raises(ValueError, match=r"object lacks .*right"):
        attack(KEY, object(), X, Y)
    if attack.needs is Votes:
        with pytest.raises(ValueError, match="Network lacks banks"):
            attack(KEY, network(), X, Y)


@each
def test_no_knob_takes_a_number_that_means_nothing(attack):
    for field in dataclasses.fields(attack):
        for number in (-1, 0) if field.type is int else (-1.0, np.nan, np.inf):
            if field.type in (int, float):
                with pytest.raises(ValueError, match=f"{field.name}={number}"):
                    dataclasses.replace(attack, **{field.name: number})


@each
def test_a_value_is_its_repr_and_turns_into_json(attack):
    assert eval(repr(attack), dict(vars(attacks))) == attack
    knobs = {field.name: getattr(attack, field.name) for field in dataclasses.fields(attack)}
    assert json.loads(json.dumps(values.told(attack))) == {"class": type(attack).__name__, **knobs}
    assert attack.cites


def function_of(attack):
    """The public function that makes the value and calls it."""
    names = {name.replace("_", ""): part for name, part in vars(attacks).items() if name.islower()}
    return names[type(attack).__name__.lower()]


@each
def test_the_defaults_of_a_function_are_those_of_its_value(attack):
    parameters = inspect.signature(inspect.unwrap(function_of(attack))).parameters
    defaults = {field.name: field.default for field in dataclasses.fields(attack)}
    assert {name: parameters[name].default for name in defaults} == defaults
