"""Which attacks are run, on what, and what is kept of them: with attacks that cost nothing."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import stubs

from knn_jax import attacks, values
from knn_jax.evaluation import attacked, certified
from knn_jax.evaluation.attacked import Run
from knn_jax.evaluation.resumable import Results
from knn_jax.recipe import Evaluate
from knn_jax.report import summary

pytestmark = pytest.mark.usefixtures("quick")
RADII = (0.1, 0.3)


@pytest.fixture(scope="module")
def system():
    return stubs.system()


def asking(made, **knobs):
    return stubs.recipe(attacks=made, evaluate=Evaluate(images=10, chunk=5, radii=RADII, **knobs))


def test_each_attack_is_run_in_the_norms_and_from_the_sources_that_it_has():
    made = {
        "ours": attacks.MinimumNorm(),
        "lbfgs": attacks.LBFGS(),
        "pgd": attacks.PGD(),
        "guided": attacks.Guided(),
    }
    runs = attacked.runs(asking(made, norms=("linf", "l2"), sources=("model", "network")))
    assert [(one.name, one.norm, one.source) for one in runs] == [
        ("ours", "linf", "model"),
        ("ours", "l2", "model"),
        ("lbfgs", "l2", "model"),
        ("lbfgs", "l2", "network"),
        *(("pgd", norm, source) for norm in ("linf", "l2") for source in ("model", "network")),
        ("guided", "l2", "model"),
    ]
    assert [runs[0].label, runs[3].label] == ["ours", "lbfgs on network"]


def test_others_than_the_primary_attack_are_run_on_fewer_images(system, tmp_path):
    made = {"shift": stubs.Shift(), "baseline": stubs.Baseline(), "lower": stubs.Lower()}
    recipe = asking(made, baseline_images=7)
    found = [attacked.attack(recipe, system, one, tmp_path) for one in attacked.runs(recipe)]
    assert [len(one.arrays["norm"]) for one in found] == [10, 7, 7]
    [at_once] = [one for one in attacked.runs(asking(made)) if one.name == "lower"]
    whole = attacked.attack(asking(made), system, at_once, tmp_path)
    np.testing.assert_array_equal(whole.arrays["norm"][:5], found[2].arrays["norm"][:5])


def test_a_source_is_given_to_what_follows_it(tmp_path):
    """The stub shifts by as many steps as the source has rows that decide."""
    system = stubs.system()
    other = dataclasses.replace(system.model, k=3)
    system = dataclasses.replace(system, sources={"model": None, "network": other})
    recipe = asking({"shift": stubs.Shift(far=0.05)}, sources=("model", "network"))
    own, followed = (attacked.attack(recipe, system, one, tmp_path) for one in attacked.runs(recipe))
    np.testing.assert_allclose(followed.arrays["norm"], 3 * own.arrays["norm"], rtol=1e-4)


def test_an_image_falls_at_the_least_radius_at_which_the_attack_fools_it(system, tmp_path):
    recipe = asking({"lower": stubs.Lower()}, trials=3)
    arrays = attacked.attack(recipe, system, Run("lower", stubs.Lower(), "l2"), tmp_path).arrays
    test = system.dataset.test
    x, y = jnp.asarray(test.floats(0, 10)), jnp.asarray(test.labels[:10])
    wrong = np.asarray(~system.model.right(x, y))
    assert wrong.tolist() == [i == stubs.WRONG for i in range(10)]
    fooled = np.asarray(~system.model.right(jnp.asarray(arrays["image"]), y))
    np.testing.assert_array_equal(arrays["success"], fooled)
    np.testing.assert_array_equal(np.isfinite(arrays["norm"]), fooled)
    np.testing.assert_array_equal(arrays["norm"] == 0, wrong)
    assert (arrays["norm"][fooled] <= np.float32(RADII[-1])).all()
    assert arrays["trials"].shape == (10, 3)
    np.testing.assert_array_equal(arrays["norm"], arrays["trials"][:, 0])
    assert len(np.unique(arrays["trials"][np.isfinite(arrays["norm"]) & ~wrong])) > 3  # it draws
    assert arrays["gradients"].tolist() == [4] * 10  # two radii, two steps
    changed = arrays["adversarial"]
    np.testing.assert_array_equal((changed != np.asarray(y)), fooled)
    lengths = np.linalg.norm((arrays["image"] - np.asarray(x)).reshape(10, -1), axis=1)
    np.testing.assert_allclose(arrays["l2"][fooled], lengths[fooled], rtol=1e-5)


def test_what_draws_nothing_is_run_once(system, tmp_path):
    recipe = asking({"still": stubs.Still(), "lower": stubs.Lower()}, trials=3)
    arrays = attacked.attack(recipe, system, Run("still", stubs.Still(), "l2"), tmp_path).arrays
    assert arrays["trials"].shape == (10, 1)


def test_trials_are_told_by_their_mean_and_interval(system, tmp_path):
    recipe = asking({"lower": stubs.Lower()}, trials=3)
    found = attacked.attack(recipe, system, Run("lower", stubs.Lower(), "l2"), tmp_path)
    correct = np.arange(20) != stubs.WRONG
    told = summary.attack(recipe, "lower", "l2", found, correct)
    assert told["trials"] == 3
    share = (correct[:10, None] & (found.arrays["trials"] > RADII[0])).mean(0)
    assert told["mean_acc"]["0.1"] == pytest.approx(share.mean())
    assert told["interval"]["0.1"] == pytest.approx(4.302653 * share.std(ddof=1) / 3**0.5)  # t of 2


@values.value
class Chosen(stubs.Lower):
    """Takes the share that it is prepared with."""

    def prepare(self, key, victim, source, norm, radii):
        """Half of the middle radius, of images that it asks for."""
        images, _ = victim.first_images(2)
        return dataclasses.replace(self, share=radii[len(radii) // 2] * len(images)), source

    def more(self, model, source, x, y, image):
        """What was chosen."""
        return {"chosen": jnp.full(len(x), self.share)}


def test_what_is_chosen_beforehand_is_run_and_kept(system, tmp_path, monkeypatch):
    recipe = asking({"chosen": Chosen()})
    [one] = attacked.runs(recipe)
    found = attacked.attack(recipe, system, one, tmp_path)
    np.testing.assert_allclose(found.arrays["chosen"], 0.6)
    monkeypatch.setattr(Chosen, "prepare", None)  # nothing is prepared for what is found again
    again = attacked.attack(recipe, system, one, tmp_path, compute=False)
    np.testing.assert_array_equal(again.arrays["norm"], found.arrays["norm"])


def results(norm, **flags):
    arrays = {"norm": np.float32(norm), "l2": np.float32(norm), "gradients": np.full(len(norm), 2)}
    return Results(arrays | {name: np.array(flag) for name, flag in flags.items()}, 1.0, 0.5)


def test_the_worst_of_several_attacks_is_the_least_norm_of_each_image():
    long = results([1.0, np.inf, 3.0], no_gradient=[True, True, False])
    short = results([0.5, np.inf], no_gradient=[False, True])
    for pair in ((long, short), (short, long)):
        least = attacked.worst(pair)
        assert least.arrays["norm"].tolist() == [0.5, np.inf, 3.0]
        assert least.arrays["gradients"].tolist() == [4, 4, 2]
        assert least.arrays["no_gradient"].tolist() == [False, True, False]  # only where all had none
        assert (least.seconds, least.compile_seconds) == (2, 1)


def test_a_certificate_is_of_as_many_images_as_are_asked_for(system, tmp_path):
    recipe = asking({}, certified_images=13, certified_chunk=6)
    found = certified.certify(recipe, system, "tenth", stubs.Tenth(), tmp_path)
    images = system.dataset.test.images[:13]
    expected = np.where(np.arange(13) == stubs.WRONG, 0, images.max((1, 2, 3)) / 10)
    np.testing.assert_allclose(found.arrays["radius"], expected, rtol=1e-6)
    half = certified.certify(recipe, system, "tenth", stubs.Tenth(0.05), tmp_path)
    np.testing.assert_allclose(half.arrays["radius"], expected / 2, rtol=1e-6)


def test_a_constant_is_a_part_of_the_question_where_it_bounds_features(system, tmp_path):
    for lipschitz in (1.0, 2.0, 1.0):
        one = dataclasses.replace(system, lipschitz=lipschitz)
        certified.certify(asking({}), one, "tenth", stubs.Tenth(), tmp_path)
    assert len(list(tmp_path.glob("parts/tenth_*"))) == 2
