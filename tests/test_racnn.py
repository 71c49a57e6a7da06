"""RaCNN: its simplex, attention and loss by hand; what it retrieves, softly and hard; its recipe."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import stats
from some_digits import digits as load_digits
from victims import flat

from knn_jax import attacks, classifiers, cli, data, defenses, nets
from knn_jax.defenses.racnn import simplex
from knn_jax.nets import STATISTICS
from knn_jax.recipe import Evaluate, Recipe, fit
from knn_jax.training import Batch, Optim, References
from knn_jax.training.references import from_table

pytestmark = pytest.mark.usefixtures("trains", "quick")
KEY = jax.random.key(0)
RACNN = defenses.RaCNN(nets.digits_racnn(), nets.digits_all_conv(), "conv2", neighbors=3, mixup_steps=2)
OPTIM = Optim(epochs=1, batch_size=40)


# Local mixup.


@pytest.mark.parametrize("k", [2, 3, 10])
def test_coefficients_are_uniform_on_the_simplex(k):
    """Each is Beta(1, k - 1), and so is their least times k; sums are 1."""
    alpha = np.asarray(simplex(KEY, (4000, k)))
    assert alpha.shape == (4000, k)
    assert (alpha >= 0).all()
    np.testing.assert_allclose(alpha.sum(1), 1, rtol=1e-5)
    beta = stats.beta(1, k - 1)
    for values in (*alpha.T, k * alpha.min(1)):
        assert stats.kstest(values, beta.cdf).pvalue > 1e-3


@pytest.fixture(scope="module")
def net():
    return RACNN.module(10)


@pytest.fixture(scope="module")
def digits():
    """Ten images, each with three neighbours and their labels."""
    split = load_digits().train
    x, y = jnp.asarray(split.floats(0, 40)), jnp.asarray(split.labels[:40])
    return Batch(
        *(x[:10], x[:10], y[:10], jnp.arange(10) < 8),
        References(x[10:].reshape(10, 3, 8, 8, 1), y[10:].reshape(10, 3)),
    )


@pytest.fixture(scope="module")
def variables(net, digits, quick):
    """As initialised, but for attention that attends to something."""
    found = net.init(KEY, digits.x)
    matrix = 0.3 * jax.random.normal(KEY, (16, 16))
    return {**found, "params": found["params"] | {"attention": {"kernel": matrix}}}


def trained(net, **steps):
    return dataclasses.replace(RACNN, **steps).objective(net)


def by_hand(net, variables, batch, alpha):
    """-sum of the target times log softmax of the head's logits, in numpy but for the net's halves."""
    found = [
        net.apply(variables, x, method="embed")
        for x in (batch.x, *jnp.moveaxis(batch.references.x, 1, 0))
    ]
    query, values = np.asarray(found[0]), np.stack(found[1:], 1)
    matrix = np.asarray(variables["params"]["attention"]["kernel"])
    target = np.eye(10)[batch.y]
    if alpha is None:
        scores = np.einsum("bkd,ed,be->bk", values, matrix, query)
        alpha = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    else:
        target = np.einsum("bk,bkc->bc", alpha, np.eye(10)[batch.references.y])
    point = jnp.asarray(np.einsum("bk,bkd->bd", alpha, values))
    logits = net.apply(variables, point[:, None, :], method=_head)
    logits = np.asarray(logits, np.float64)
    return -(target * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)


def _head(net, point):
    return net.head(point[:, 0])


@pytest.mark.parametrize("step", range(5))
def test_the_loss_by_hand_cross_entropy_then_mixup(net, variables, digits, step):
    """Two steps of cross-entropy, one of mixup, and again."""
    defense = trained(net, ce_steps=2, mixup_steps=1)
    loss = defense.loss(variables, KEY, digits._replace(step=jnp.int32(step)))
    alpha = np.asarray(simplex(KEY, (10, 3))) if step % 3 == 2 else None
    np.testing.assert_allclose(loss, by_hand(net, variables, digits, alpha), rtol=2e-4)


def test_without_mixup_every_step_is_cross_entropy(net, variables, digits):
    defense = trained(net, ce_steps=1, mixup_steps=0)
    losses = [defense.loss(variables, KEY, digits._replace(step=jnp.int32(s))) for s in (0, 1, 5)]
    np.testing.assert_array_equal(losses[0], losses[1])
    np.testing.assert_array_equal(losses[0], losses[2])


def test_examples_that_are_not_there_and_their_neighbours_change_nothing(net, variables, digits):
    """Neither the loss of the others nor any running statistics; all of these move, once."""
    learn = jax.jit(trained(net, ce_steps=1, mixup_steps=5).train_loss)
    digits = digits._replace(step=jnp.int32(3))
    noise = jax.random.uniform(KEY, (2, 4, 8, 8, 1))
    other = digits._replace(
        x=digits.x.at[8:].set(noise[:, 0]),
        references=References(digits.references.x.at[8:].set(noise[:, 1:]), digits.references.y),
    )
    (one, moved), (two, same) = (learn(variables, KEY, batch) for batch in (digits, other))
    np.testing.assert_allclose(one[:8], two[:8], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), moved, same)
    before = jax.tree.leaves(variables[STATISTICS])
    after = jax.tree.leaves(moved[STATISTICS])
    assert len(before) == len(after)
    assert all((b != a).any() for b, a in zip(before, after, strict=True))
    assert all((v >= 0.9).all() for p, v in jax.tree.leaves_with_path(moved) if p[-1].key == "var")


def test_the_gradient_reaches_every_parameter(net, variables, digits):
    """Of cross-entropy; mixup leaves attention alone."""
    defense = trained(net, ce_steps=1, mixup_steps=1)

    @jax.jit
    def gradient(step):
        def loss(params):
            return defense.loss({**variables, "params": params}, KEY, digits._replace(step=step)).sum()

        return jax.grad(loss)(variables["params"])

    first, second = gradient(jnp.int32(0)), gradient(jnp.int32(1))
    for path, leaf in jax.tree.leaves_with_path(first):
        assert np.abs(leaf).max() > 0, path
    assert not np.any(second["attention"]["kernel"])
    assert np.any(second["body"]["conv1"]["kernel"])


# Retrieval.


@pytest.fixture(scope="module")
def model(net, variables, digits):
    """Retrieval by pixels from the neighbours of the ten."""
    images, labels = digits.references.x.reshape(30, 8, 8, 1), digits.references.y.reshape(30)
    near = classifiers.knn(flat, images, labels, k=4)
    return classifiers.retrieval(near, *nets.answering(net, variables))


def test_it_answers_among_the_rows_with_the_nearest_keys(model, net, variables, digits):
    bank = np.asarray(flat(model.images), np.float64)
    distance = np.linalg.norm(np.asarray(flat(digits.x))[:, None] - bank[None], axis=2)
    index = np.argsort(distance, 1)[:, :4]
    query, rows = (net.apply(variables, x, method="embed") for x in (digits.x, model.images))
    logits = net.apply(variables, query, rows[index], method="answer")
    np.testing.assert_allclose(model.votes(digits.x), logits, atol=1e-5)
    np.testing.assert_array_equal(model.predict(digits.x), np.argmax(logits, 1))
    own = np.take_along_axis(np.asarray(logits), np.asarray(digits.y)[:, None], 1)[:, 0]
    rest = np.where(np.eye(10, dtype=bool)[digits.y], -np.inf, logits).max(1)
    np.testing.assert_allclose(model.margin(digits.x, digits.y), own - rest, atol=1e-5)


def test_attacks_on_rows_that_vote_say_that_it_has_none(model, digits):
    with pytest.raises(ValueError, match="Retrieval lacks banks"):
        attacks.Guided()(jax.random.key(0), model, digits.x, digits.y)


@pytest.mark.parametrize("count", [None, 1, 6])
def test_at_a_tiny_temperature_soft_retrieval_is_retrieval(model, digits, count):
    soft = model.soft_votes(digits.x, model.references(digits.x, count), 1e-6)
    np.testing.assert_allclose(soft, model.votes(digits.x), atol=1e-4)


def test_softly_the_gradient_goes_through_the_keys_and_held_it_does_not(model, digits):
    """A key that is no function of phi: the gradient of soft retrieval differs by its part."""
    whole, held = (
        jax.grad(lambda x, m=m, r=r: m.soft_votes(x, r, 1.0)[:, 0].sum())(digits.x)
        for m in (model, model.held())
        for r in [m.references(digits.x)]
    )
    assert np.isfinite(whole).all()
    assert np.isfinite(held).all()
    blind = dataclasses.replace(model, embed=Partial(_constant, model.embed))
    through = jax.grad(lambda x: blind.soft_votes(x, blind.references(x), 1.0)[:, 0].sum())(digits.x)
    assert np.abs(through).max() > 0
    none = jax.grad(lambda x: blind.held().soft_votes(x, blind.held().references(x), 1.0)[:, 0].sum())
    assert not np.any(none(digits.x))
    assert np.abs(whole - held).max() > 1e-6


def _constant(embed, x):
    return jax.lax.stop_gradient(embed(x))


def test_held_neighbours_are_those_of_the_image(model, digits):
    held = model.held()
    rows = held.references(digits.x)
    np.testing.assert_allclose(held.soft_votes(digits.x, rows, 0.1), model.votes(digits.x), atol=1e-5)
    assert (held.k, held.classes) == (4, 10)


@pytest.mark.parametrize("source", ["model", "held"])
def test_attacks_take_it_and_the_hard_answer_judges(model, digits, source):
    source = None if source == "model" else model.held()
    own = {"norm": "linf", "eps": 0.3, "steps": 6}
    found = attacks.pgd(KEY, model, digits.x, digits.y, source=source, **own)
    fooled = np.asarray(model.margin(found.image, digits.y) <= 0)
    np.testing.assert_array_equal(fooled, found.success)
    least = attacks.minimum_norm(KEY, model, digits.x, digits.y, norm="linf", steps=8, starts=3)
    assert 0 < least.success.sum() < 10  # untrained, it may give some class to nothing
    np.testing.assert_array_equal(model.margin(least.image, digits.y) <= 0, least.success)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"near": [flat, flat]}, "keys of 2 taps"),
        ({"embed": lambda x: x}, r"features of shape \(30, 8, 8, 1\)"),
        ({"answer": lambda q, v, n: q[:, 0]}, r"logits of shape \(1,\)"),
    ],
)
def test_what_is_no_retrieval_is_refused(model, change, message):
    near = classifiers.knn(change.get("near", flat), model.images, model.labels, k=4)
    with pytest.raises(ValueError, match=message):
        classifiers.retrieval(
            near, change.get("embed", model.embed), change.get("answer", model.answer)
        )
    with pytest.raises(ValueError, match=r"images of shape \(4, 4, 1\)"):
        model.votes(jnp.zeros((1, 4, 4, 1)))


# What it is trained on.


def test_no_training_image_is_its_own_neighbour(tmp_path, monkeypatch, capsys):
    dataset = load_digits(120)
    one = data.Dataset(*dataset[:4], extra=dataset.train)
    retriever = RACNN.fit_retriever(dataset, OPTIM, tmp_path)
    for given in (dataset, one):
        folder = tmp_path / str(given is one)
        rows = RACNN.table(retriever, given, folder)
        assert rows.shape == (108, 3)
        own = (rows == np.arange(108)[:, None]).any(1)
        assert own.all() if given is one else not own.any()  # of other candidates it may be
        [keys] = retriever.keys(jnp.asarray(given.train.floats(0, 108)))
        keys = np.asarray(keys, np.float64)
        distance = np.linalg.norm(keys[:, None] - keys[None], axis=2)
        distance += np.where(np.eye(108, dtype=bool), 0 if given is one else np.inf, 0)
        nearest = np.sort(distance, 1)[:, :3]
        np.testing.assert_allclose(np.take_along_axis(distance, rows, 1), nearest, atol=1e-4)
        with monkeypatch.context() as patch:  # the table is kept
            patch.setattr(defenses.RaCNN, "candidates", None)
            again = RACNN.table(retriever, given, folder)
        np.testing.assert_array_equal(again, rows)
        file = folder / "neighbors.npz"
        whole = file.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        np.savez(file, index=rows[:, :2])
        other = dataclasses.replace(
            retriever, variables=jax.tree.map(lambda leaf: leaf + 1, retriever.variables)
        )
        file.write_bytes(whole)
        with pytest.raises(ValueError, match=r"neighbors\.npz was made by another retriever"):
            RACNN.table(other, given, folder)
        np.savez(file, index=rows[:, :2])
        for content in (file.read_bytes(), b"no", flipped):
            file.write_bytes(content)
            again = RACNN.table(retriever, given, folder)
            np.testing.assert_array_equal(again, rows)
            assert str(file) in capsys.readouterr().err
            with np.load(file) as found:
                np.testing.assert_array_equal(found["index"], rows)


def test_keys_can_be_projected(tmp_path):
    dataset = load_digits(120)
    narrow = dataclasses.replace(RACNN, project=40)
    whole, one = (
        value.candidates(value.fit_retriever(dataset, OPTIM, tmp_path), dataset.train, 3).banks[0]
        for value in (RACNN, narrow)
    )
    assert one.shape == (108, 40)
    lengths = [np.linalg.norm(bank[1:] - bank[:1], axis=1) for bank in (whole, one)]
    assert abs(np.log(lengths[1] / lengths[0])).mean() < 0.25


def test_the_recipe_from_end_to_end(tmp_path, monkeypatch):
    """Attacked as it is, with its neighbours held, which are then those of the clean image, and through
    the network that it retrieves by; and that network's own decisions beside it."""
    seen, search = set(), attacks.PGD.search

    def spy(self, key, model, source, *rest):
        seen.add((type(source).__name__, self.refresh))
        return search(self, key, model, source, *rest)

    monkeypatch.setattr(attacks.PGD, "search", spy)
    recipe = Recipe(
        name="racnn",
        data=data.Digits(train_images=120),
        defense=RACNN,
        optim=OPTIM,
        classifier=fit.Retrieval(),
        attacks={"pgd": attacks.PGD(steps=2)},
        evaluate=Evaluate(
            images=4, norms=("linf",), radii_linf=(0.2,), sources=("model", "held", "network"), chunk=4
        ),
    )
    cli.attack(recipe, str(tmp_path))
    assert seen == {("Retrieval", 5), ("Held", 0), ("Network", 5)}
    assert (tmp_path / "retrieved.png").stat().st_size > 0
    report = json.loads((tmp_path / "report.json").read_text())
    labels = [attack["name"] for attack in report["attacks"]]
    assert labels == ["pgd", "pgd on held", "pgd on network", "least of all"]
    assert (report["layer"], report["k"], report["bank_rows"]) == ("conv2", 3, 108)
    assert report["decider"] == "retrieval of 3 by conv2"
    dataset = load_digits(120)
    alone = fit.system(RACNN, fit.Network(), OPTIM, dataset, tmp_path)
    assert alone.fingerprint != report["fingerprint"]
    beside = fit.system(RACNN, fit.Retrieval(top=2), OPTIM, dataset, tmp_path, ("network", "held"))
    assert type(beside.sources["held"]) is type(beside.model.held())
    assert beside.sources["network"].top == 2
    x = jnp.asarray(dataset.test.floats(0, 4))
    retriever = beside.trained.retriever
    expected = retriever.net.apply(retriever.variables, x)[0]
    np.testing.assert_allclose(beside.sources["network"].votes(x), expected, rtol=1e-4, atol=1e-5)


def test_rows_are_looked_up():
    split = data.Split(np.zeros((5, 1, 1, 1), np.float32), np.zeros(5, np.int32))
    table = np.arange(12).reshape(6, 2)
    rows = from_table(lambda: split.images, split.labels, table).rows(KEY, jnp.array([4, 0]))
    np.testing.assert_array_equal(rows, [[8, 9], [0, 1]])


# On a network that stays as it was trained, and accuracy@k.

FROZEN = defenses.RaCNN(nets.digits_frozen_racnn(), nets.digits_resnet(), "pool", neighbors=3)


@pytest.fixture(scope="module")
def frozen(trains, quick, tmp_path_factory):
    """A network on features that stay, trained for two epochs, and its data."""
    dataset, optim = load_digits(120), dataclasses.replace(OPTIM, epochs=2)
    return FROZEN.fit(dataset, optim, tmp_path_factory.mktemp("frozen")), dataset


def test_frozen_features_are_those_retrieved_by_and_the_rest_is_trained(frozen):
    found, dataset = frozen
    x, net, retriever = jnp.asarray(dataset.test.floats(0, 4)), found.net, found.retriever
    embedded = net.apply(found.variables, x, method="embed")
    np.testing.assert_array_equal(embedded, retriever.net.apply(retriever.variables, x)[1]["pool"])
    near = FROZEN.candidates(retriever, dataset.train, 3)
    np.testing.assert_allclose(embedded, near.first(x), rtol=1e-6)
    begun = net.adopt(net.init(KEY, x), retriever.variables)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), begun["params"], found.variables["params"])
    assert not any(jax.tree.leaves(moved["body"]))
    assert all(jax.tree.leaves((moved["head"], moved["attention"])))
    jax.tree.map(np.testing.assert_array_equal, begun[STATISTICS], found.variables[STATISTICS])


@pytest.mark.parametrize("step", [0, 1])
def test_the_loss_of_a_frozen_network_is_of_features_that_were_computed_once(frozen, step):
    """By cross-entropy and by mixup, as if they had been computed with the batch's own."""
    found, dataset = frozen
    x, y = jnp.asarray(dataset.train.floats(0, 40)), jnp.asarray(dataset.train.labels[:40])
    features = found.net.apply(found.variables, x[10:], method="embed").reshape(10, 3, -1)
    references = References(features, y[10:].reshape(10, 3))
    batch = Batch(x[:10], x[:10], y[:10], jnp.ones(10, bool), references, jnp.int32(step))
    alpha = np.asarray(simplex(KEY, (10, 3))) if step else None
    images = batch._replace(references=references._replace(x=x[10:].reshape(10, 3, *x.shape[1:])))
    loss = FROZEN.objective(found.net).loss(found.variables, KEY, batch)
    np.testing.assert_allclose(loss, by_hand(found.net, found.variables, images, alpha), rtol=2e-4)


def test_it_begins_with_the_answer_of_the_network_it_retrieves_by(frozen):
    found, dataset = frozen
    x, net, retriever = jnp.asarray(dataset.test.floats(0, 4)), found.net, found.retriever
    begun = net.adopt(net.init(KEY, x), retriever.variables)
    expected = retriever.net.apply(retriever.variables, x)[0]
    np.testing.assert_allclose(net.apply(begun, x)[0], expected, atol=1e-5)


def test_an_image_is_right_where_its_class_is_among_the_first(frozen):
    found, dataset = frozen
    near = FROZEN.candidates(found.retriever, dataset.train, 3)
    model = classifiers.retrieval(near, *nets.answering(found.net, found.variables), top=2)
    x, y = jnp.asarray(dataset.test.floats(0, 60)), jnp.asarray(dataset.test.labels[:60])
    votes = np.asarray(model.votes(x))
    place = (votes > np.take_along_axis(votes, np.asarray(y)[:, None], 1)).sum(1)
    assert model.top == 2
    np.testing.assert_array_equal(np.asarray(model.right(x, y)), place < 2)
    assert (place == 1).any()


def linear(top):
    """Scores that are pixels, of 4 classes; and an image of class 0."""
    x = jnp.array([[0.8, 0.6, 0.5, 0.1]]).reshape(1, 4, 1, 1)
    return classifiers.network(flat, x, jnp.arange(1), top=top), x, jnp.array([0])


@pytest.mark.parametrize(
    ("top", "need"),
    # The first and the second pixel meet halfway; three at their mean; the first and the last halfway.
    [(1, 0.2 / 2**0.5), (2, 0.0466667**0.5), (3, 0.7 / 2**0.5)],
)
def test_the_smallest_perturbation_by_hand_that_puts_so_many_classes_ahead(top, need):
    model, x, y = linear(top)
    found = attacks.deepfool(KEY, model, x, y)
    assert found.success.all()
    assert (found.norm >= need - 1e-5).all()
    np.testing.assert_allclose(found.norm, need, rtol=0.35)
    assert attacks.deepfool(KEY, model, x, y, candidates=2).success.all()
    pulled = attacks.lbfgs(KEY, model, x, y, steps=40, rounds=12)
    assert (pulled.norm >= need - 1e-5).all()
    np.testing.assert_allclose(pulled.norm, need, rtol=0.35)
    own = {"steps": 60, "starts": 1}
    others = jnp.concatenate([x, jnp.ones((3, 4, 1, 1)).at[:, 0].set(0.0)])
    near = dataclasses.replace(model, pixels=classifiers.knn(flat, others, jnp.arange(4), k=1))
    least = attacks.minimum_norm(KEY, near, x, y, **own)
    assert (least.norm >= need - 1e-5).all()
    np.testing.assert_allclose(least.norm, need, rtol=0.25)
    inside = attacks.pgd(KEY, model, x, y, norm="l2", eps=1.5 * need, steps=40)
    assert inside.success.all()
    assert not attacks.pgd(KEY, model, x, y, norm="l2", eps=0.99 * need, steps=40).success.any()
