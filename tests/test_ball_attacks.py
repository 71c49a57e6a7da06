"""What every attack inside a ball keeps, whichever it is: one more is tested by adding it to a list."""

import dataclasses
import inspect
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from victims import flat, lengths

from knn_jax import attacks, classifiers, losses, neighbors, values

SHAPE = (4, 4, 1)
KEY = jax.random.key(0)
EPS = {"linf": 0.12, "l2": 0.4}
pytestmark = pytest.mark.usefixtures("quick")

BALL_ATTACKS = {
    "PGD": (attacks.PGD(steps=4, step_size=0.6, restarts=2, refresh=3, temperature=1.0), "linf"),
    "LossPGD": (attacks.LossPGD(steps=4, step_size=0.6), "l2"),
    "ASK": (attacks.ASK(steps=4), "linf"),
    "ASK of other references": (
        attacks.ASK(steps=4, refresh=3, k=2, others=4, metric=neighbors.Euclidean(), weights=(0.5,)),
        "l2",
    ),
    "ASK at one target": (attacks.ASK(steps=4, targeted=True, drawn=True), "linf"),
    "DKNN": (attacks.DKNN(steps=4), "linf"),
    "AdvKNN": (attacks.AdvKNN(steps=4, epochs=60, width=16, batch_size=16, learning_rate=0.01), "l2"),
    "KFGSM": (attacks.KFGSM(steps=4, step_size=0.5, near=0.1), "l2"),
}
LISTED = {type(attack) for attack, _ in BALL_ATTACKS.values()}
each = pytest.mark.parametrize("name", BALL_ATTACKS)
traces = []


def counted(x):
    """Pixels as features, each trace of which is noted."""
    traces.append(1)
    return flat(x)


@dataclasses.dataclass
class Prepared:
    """A classifier with what an attack may be prepared with."""

    model: classifiers.KNN

    def on_layers(self, layers):
        features = [flat] * len(layers)
        return classifiers.knn(features, self.model.images, self.model.labels, k=2)

    def training_loss(self, source):
        return Partial(_loss, self.model)

    def first_images(self, count):
        return self.model.images[:count], self.model.labels[:count]


def _loss(model, x, y):
    """Cross-entropy of minus the least distance to each class."""
    distance = jnp.sum(jnp.square(flat(x)[:, None] - model.banks[0][None]), -1)
    same = model.labels[:, None] == jnp.arange(3)[None]
    scores = -jnp.min(jnp.where(same[None], distance[..., None], jnp.inf), 1)
    return losses.cross_entropy(20 * scores, y)


@dataclasses.dataclass
class Case:
    """An attack, what it is run on, and what it found there."""

    attack: attacks.BallAttack
    model: classifiers.KNN
    source: object
    x: jax.Array
    y: jax.Array
    norm: str
    found: attacks.Found

    def run(self, attack=None, rows=slice(None), key=KEY, **changed):
        given = {"norm": self.norm, "eps": EPS[self.norm], "source": self.source} | changed
        return (attack or self.attack)(key, self.model, self.x[rows], self.y[rows], **given)


@pytest.fixture(scope="module")
def case(quick):
    """Of 48 rows the 3-NN by pixels, and six images of which the last has another's label; the first
    ones lie between two classes, the fifth where all rows of its class are."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 3
    corners = rng.uniform(0.25, 0.75, (3, 16))
    rows = np.clip(corners[labels] + rng.normal(0, 0.05, (48, 16)), 0, 1)
    share = np.array([0.35, 0.4, 0.42, 0.38, 0, 0])[:, None]
    x = (1 - share) * corners[[0, 1, 2, 0, 1, 2]] + share * corners[[1, 2, 0, 2, 0, 1]]
    images, x = (jnp.asarray(a.reshape(-1, *SHAPE), jnp.float32) for a in (rows, x))
    y = jnp.array([0, 1, 2, 0, 1, 0], jnp.int32)
    sums = neighbors.Subspaces(2)
    knn = {
        metric: classifiers.knn(counted, images, jnp.asarray(labels, jnp.int32), k=3, metric=metric)
        for metric in ("l2", sums)
    }
    assert knn["l2"].right(x, y).tolist() == knn[sums].right(x, y).tolist() == [True] * 5 + [False]
    made = {}

    def find(name):
        if name not in made:
            attack, norm = BALL_ATTACKS[name]
            model = knn[sums if isinstance(attack, attacks.KFGSM) else "l2"]
            attack, source = attack.prepare(KEY, Prepared(model), None, norm, (EPS[norm],))
            run = Case(
                attack, model, source if attack.follows or name == "AdvKNN" else None, x, y, norm, ()
            )
            made[name] = dataclasses.replace(run, found=run.run())
        return made[name]

    return find


def test_every_attack_in_a_ball_is_in_the_list():
    kinds = (kind for kind in vars(attacks).values() if inspect.isclass(kind))
    assert {k for k in kinds if issubclass(k, attacks.BallAttack)} - {attacks.BallAttack} == LISTED


@each
def test_images_stay_in_box_and_ball(case, name):
    """In float64; a norm that rounding took beyond eps is given as eps."""
    case, found = case(name), case(name).found
    delta = np.asarray(found.image, np.float64) - np.asarray(case.x)
    assert 0 <= found.image.min() <= found.image.max() <= 1
    assert (lengths(case.norm, delta) <= EPS[case.norm] + 1e-6).all()
    norm = np.asarray(found.norm)
    assert (norm[np.isfinite(norm)] <= np.float32(EPS[case.norm])).all()
    expected = np.where(found.success, lengths(case.norm, delta), np.inf)
    np.testing.assert_allclose(norm, expected, rtol=1e-5)


@each
def test_the_hard_vote_judges(case, name):
    """Some are fooled; an image that is not comes back, as does one that was wrong before."""
    case, found = case(name), case(name).found
    np.testing.assert_array_equal(found.success, ~case.model.right(found.image, case.y))
    assert np.isfinite(found.norm[:4]).any()
    assert found.success.tolist()[4:] == [False, True]
    np.testing.assert_array_equal(found.image[~found.success], case.x[~found.success])
    np.testing.assert_array_equal(found.image[-1], case.x[-1])
    np.testing.assert_array_equal(found.norm[-2:], [np.inf, 0])
    assert not found.exhausted.any()


@each
def test_an_image_alone_in_the_callers_jit_is_treated_as_in_a_batch(case, name):
    case = case(name)
    alone = jax.jit(lambda eps: case.run(rows=slice(1), eps=eps))(jnp.float32(EPS[case.norm]))
    np.testing.assert_allclose(alone.image, case.found.image[:1], atol=1e-6)
    assert alone.success == case.found.success[:1]


@each
def test_numbers_are_arguments_of_one_program(case, name):
    """Another eps, and other floats in every knob."""
    case = case(name)
    others = jax.tree.map(lambda number: 1.25 * number, case.attack)
    assert others != case.attack
    traces.clear()
    less = case.run(others, eps=EPS[case.norm] / 2)
    assert not traces
    assert less.success.sum() <= case.found.success.sum()
    none = case.run(eps=0.0)
    assert not traces
    np.testing.assert_array_equal(none.success, ~case.model.right(case.x, case.y))


@each
def test_images_stay_float32_where_jax_counts_in_64_bits(case, name):
    case = case(name)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        found = jax.eval_shape(case.run)
    assert found.image.dtype == found.norm.dtype == jnp.float32


@each
def test_what_cannot_be_attacked_is_refused(case, name):
    """As ValueError, naming the value."""
    case = case(name)
    attack, given = case.attack, {"eps": 0.1, "source": case.source, "norm": case.norm}

    def refused(message, model=case.model, x=case.x, y=case.y, **changed):
        with pytest.raises(ValueError, match=message):
            inspect.unwrap(type(attack).__call__)(attack, KEY, model, x, y, **given | changed)

    refused("images reach from", x=case.x * 9)
    refused("out of range of 3 classes", y=case.y + 7)
    refused("one integer for each of the 6 images", y=case.y[:2])
    refused("norm='l1': use 'linf', 'l2'", norm="l1")
    for eps in (-0.1, math.nan, math.inf):
        refused(f"eps={eps}: it must be", eps=eps)
    refused("eps=8.0: pixels are in .0, 1., .* 8/255", eps=8.0, norm="linf")
    refused(f"object lacks .*votes, which {type(attack).__name__} needs", model=object())
    if attack.needs is classifiers.Votes:
        alone = classifiers.network(lambda x: flat(x)[:, :3], case.x)
        refused("Network lacks banks, .*ranks.* classifiers.knn", model=alone)
    if attack.follows in (classifiers.Surrogate, classifiers.Votes):
        refused("object lacks .*soft_votes", source=object())


@each
def test_an_attack_is_written_down_and_read_again(name):
    attack, _ = BALL_ATTACKS[name]
    assert eval(repr(attack), vars(attacks) | vars(neighbors)) == attack
    told = values.told(attack)
    assert json.loads(json.dumps(told)) == told
    assert told["class"] == type(attack).__name__
    assert attack.cites


KNOBS = [
    *((attack, {"steps": 0}) for attack, _ in BALL_ATTACKS.values()),
    *(
        (attack, {"step_size": size})
        for attack, _ in BALL_ATTACKS.values()
        for size in (-1.0, math.nan)
    ),
    (attacks.PGD(), {"restarts": 0}),
    (attacks.PGD(), {"refresh": -1}),
    *((attacks.PGD(), {"temperature": temperature}) for temperature in (0.0, math.nan)),
    (attacks.LossPGD(), {"compare": -1}),
    *((attacks.ASK(), {name: 0}) for name in ("k", "others")),
    (attacks.ASK(), {"refresh": -1}),
    (attacks.ASK(), {"metric": "l2"}),
    *((attacks.ASK(), {"temperature": each}) for each in ((), (0.0,), (math.inf,), (0.1, -1.0))),
    *((attacks.ASK(), {"weights": weights}) for weights in ((1.0, -1.0), (0.0, 0.0), (math.nan,))),
    (attacks.ASK(), {"tune": -1}),
    (attacks.ASK(tune=5), {"temperature": (0.3,)}),
    (attacks.ASK(tune=5), {"weights": (0.3, 0.7)}),
    (attacks.DKNN(), {"guides": 0}),
    (attacks.DKNN(), {"metric": "l2"}),
    *((attacks.DKNN(), {"slope": slope}) for slope in (0.0, math.nan)),
    *((attacks.AdvKNN(), {name: 0}) for name in ("epochs", "width", "batch_size", "learning_rate")),
    *((attacks.KFGSM(), {"decay": decay}) for decay in (0.0, -1.0, math.nan)),
    *((attacks.KFGSM(), {"near": near}) for near in (-1.0, math.nan)),
]


@pytest.mark.parametrize(("attack", "knob"), KNOBS, ids=lambda part: str(part)[:40])
def test_a_knob_that_means_nothing_is_refused(attack, knob):
    with pytest.raises(ValueError, match=f"{next(iter(knob))}="):
        dataclasses.replace(attack, **knob)


FUNCTIONS = {
    attacks.PGD: attacks.pgd,
    attacks.ASK: attacks.ask,
    attacks.DKNN: attacks.dknn,
    attacks.AdvKNN: attacks.imitate,
    attacks.KFGSM: attacks.kfgsm,
    attacks.Boundary: attacks.boundary,
}


@pytest.mark.parametrize("kind", FUNCTIONS, ids=lambda kind: kind.__name__)
def test_the_function_and_the_value_have_the_same_defaults(kind):
    """But for those that the function has in another form: lengths of steps, numbers for each layer."""
    parameters = inspect.signature(inspect.unwrap(FUNCTIONS[kind])).parameters
    knobs = {field.name: field.default for field in dataclasses.fields(kind)}
    shared = (parameters.keys() & knobs.keys()) - {"step_size", "weights"}
    assert shared
    for name in shared:
        default = parameters[name].default
        if name == "metric":
            default = neighbors.named(default)
        assert knobs[name] in (default, (default,))


@pytest.mark.parametrize("knobs", [{"weights": (0.5, 0.5)}, {"temperature": (0.1, 0.1)}, {"k": 49}])
def test_what_the_source_of_ask_does_not_have_is_refused(case, knobs):
    """One layer, 48 rows."""
    with pytest.raises(ValueError, match=f"{next(iter(knobs))}="):
        case("ASK").run(attacks.ASK(**knobs))


def test_sources_are_of_what_can_be_followed(case):
    """Of a network there are no rows to retrieve, and some attacks follow the classifier alone."""
    alone = classifiers.network(lambda x: flat(x)[:, :3], case("ASK").x)
    with pytest.raises(ValueError, match="Network lacks banks"):
        case("ASK").run(source=alone)
    for name in ("DKNN", "KFGSM"):
        with pytest.raises(ValueError, match="give no source"):
            case(name).run(source=case("ASK").model)
    with pytest.raises(ValueError, match=r"layers=\('conv4',\) without a source"):
        case("ASK").run(attacks.ASK(layers=("conv4",)), source=None)
    for name in ("AdvKNN", "LossPGD"):
        with pytest.raises(ValueError, match=f"{name} .*source"):
            case(name).run(source=None)


@dataclasses.dataclass(frozen=True)
class Manhattan:
    """A metric that the package does not know."""

    def distance(self, query, rows):
        return jnp.sum(jnp.abs(query - rows), -1)


@pytest.mark.parametrize("metric", [Manhattan(), neighbors.Euclidean(squared=True)])
def test_the_potential_is_of_the_classifiers_own_metric(case, metric):
    """It is not taken for the Euclidean one: one step follows the sign of its own slope."""
    known, x, y = case("KFGSM").model, case("KFGSM").x, case("KFGSM").y
    model = classifiers.knn(flat, known.images, known.labels, k=3, metric=metric)
    attack = attacks.KFGSM(steps=1, step_size=1.0, near=0.3)

    def total(z, metric):
        distance = metric.distance(flat(z)[:, None], model.banks[0][None])
        same = model.labels[None] == y[:, None]
        return losses.potential(distance, same, 3, decay=0.5, near=0.3).sum()

    own, other = (jnp.sign(jax.grad(total)(x, of)) for of in (metric, neighbors.Euclidean()))
    found = attack(KEY, model, x, y, eps=0.12)
    fooled = np.asarray(found.success & (found.norm > 0))
    assert (own != other)[fooled].any()
    expected = jnp.clip(x + 0.12 * own, 0, 1)
    np.testing.assert_allclose(found.image[fooled], expected[fooled], atol=1e-6)


def test_ask_is_prepared_on_other_layers_by_what_fools_most(case, monkeypatch):
    """In the middle one of the radii; the choice is made once, and told of every image."""
    case, seen = case("ASK"), {}

    def tune(key, model, x, y, *, source, eps, norm, step_size, **settings):
        seen.update(settings, images=len(x), layers=len(source.banks), eps=eps, size=step_size)
        return jnp.array([0.5, 0.25]), jnp.array([0.0, 1.0])

    monkeypatch.setattr(inspect.getmodule(attacks.ask), "tune", tune)
    attack = attacks.ASK(steps=2, step_size=0.5, k=2, tune=4, layers=("a", "b"))
    made, source = attack.prepare(KEY, Prepared(case.model), None, "linf", (0.1, 0.2, 0.3))
    assert made == dataclasses.replace(attack, tune=0, temperature=(0.5, 0.25), weights=(0.0, 1.0))
    assert (seen["images"], seen["layers"], seen["eps"], seen["size"]) == (4, 2, 0.2, 0.1)
    assert (seen["k"], seen["others"], seen["steps"]) == (2, None, 2)
    image = case.found.image
    more = jax.jit(lambda x, y: made.more(case.model, source, x, y, image))(case.x, case.y)
    np.testing.assert_array_equal(more["temperature"], np.tile(np.float32([0.5, 0.25]), (6, 1)))
    np.testing.assert_array_equal(more["weights"], np.tile(np.float32([0, 1]), (6, 1)))
    tells = {"temperature": made.temperature, "weights": made.weights}
    for name, images in (("clean", case.x), ("adversarial", image)):
        expected = attacks.information(source, case.x, case.y, images, **tells)
        np.testing.assert_allclose(more[f"information_{name}"], expected, rtol=1e-5)
    np.testing.assert_allclose(more["confidence"], np.full(6, 1 / 3))  # all 48 rows vote


@each
def test_the_key_decides_what_is_drawn(case, name):
    """The same one finds the same, bit for bit; another matters if the attack says that it draws."""
    case = case(name)
    np.testing.assert_array_equal(case.run().image, case.found.image)
    other = case.run(key=jax.random.key(7)).image
    assert (other != case.found.image).any() == case.attack.draws
