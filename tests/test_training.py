"""Training: the same bits however often it is interrupted, and checkpoints that are looked at."""

import contextlib
import os
import re
import shutil
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax import lax
from some_digits import few as few_digits

from knn_jax import data, defenses, losses, mesh, nets, training
from knn_jax.data import augment
from knn_jax.display import progress
from knn_jax.training import Batch, Objective, Optim, checkpoints, early_stopping

pytestmark = pytest.mark.usefixtures("trains", "quick")
PER_EPOCH = 2  # 200 images in batches of 128: the second has 72


def softmax_regression(classes=10):
    """The least representation that can be trained, as pure functions."""

    def init(key, x):
        return {"w": 0.1 * jax.random.normal(key, (x[0].size, classes)), "b": jnp.zeros((1, classes))}

    def logits(variables, x):
        return x.reshape(len(x), -1) @ variables["w"] + variables["b"]

    def loss(variables, key, batch):
        return losses.cross_entropy(logits(variables, batch.x), batch.y)

    return Objective(init, loss, logits)


def noisy():
    """The same with noise in the loss: the key of each step counts."""
    plain = softmax_regression()

    def loss(variables, key, batch):
        noise = jax.random.uniform(key, batch.x.shape)
        return plain.loss(variables, key, batch._replace(x=batch.x + noise))

    return plain._replace(loss=loss)


def basic(net):
    defense = defenses.CrossEntropy(net)
    return defense.objective(defense.module(10))


def convolutional():
    return basic(nets.ConvNet(((4, 3, 2, 1),)))


def residual():
    """It has statistics that are carried from step to step."""
    return basic(nets.PreActResNet(((1, 2),), (0.3,), (0.4,)))


@pytest.fixture(scope="module", autouse=True)
def each_epoch_is_saved():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "EVERY", 0.0)
        yield


@pytest.fixture(scope="module")
def few():
    """200 digits to train on."""
    return few_digits(200)


def same(a, b):
    """Bit for bit."""
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def whole(x, y):
    return Batch(x, x, y, jnp.ones(len(y), bool))


def mean_loss(defense, variables, split):
    x, y = jnp.asarray(split.floats(0, len(split.labels))), jnp.asarray(split.labels)
    return float(defense.loss(variables, jax.random.key(0), whole(x, y)).mean())


def files(folder):
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def interrupted(monkeypatch, at):
    """Training gets SIGTERM in its step number `at`, counted from 1 in this run."""

    @contextlib.contextmanager
    def bar(what, total, done=0):
        steps = []

        def advance(count):
            steps.append(count)
            if len(steps) == at:
                os.kill(os.getpid(), signal.SIGTERM)

        yield advance

    monkeypatch.setattr(progress, "bar", bar)


@pytest.mark.parametrize("defense", [noisy, convolutional, residual])
def test_two_and_two_epochs_are_four(tmp_path, few, defense):
    def train(epochs, folder):
        return training.train(defense(), few, Optim(epochs=epochs), tmp_path / folder)

    whole, half, rest = train(4, "whole"), train(2, "halves"), train(4, "halves")
    assert same(whole, rest)
    assert not same(half, rest)
    assert same(train(4, "halves"), whole)  # there is nothing left to do


@pytest.mark.parametrize("batch", [64, 50])  # 50 is no multiple of the devices: it is padded
def test_devices_share_a_batch_and_change_only_rounding(tmp_path, few, batch):
    def train(devices, folder, epochs=2):
        knobs = Optim(epochs=epochs, batch_size=batch)
        return training.train(softmax_regression(), few, knobs, tmp_path / folder, devices)

    one, four = train(None, "one"), train(mesh.make(), "four")
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    train(mesh.make(), "moved", epochs=1)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(train(None, "moved")), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def uninterrupted(few, tmp_path_factory):
    """Three epochs without an interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return training.train(noisy(), few, Optim(epochs=3), folder)


@pytest.mark.parametrize("at", [1, 3, 4])  # in the first epoch, in the second, at the second's end
def test_sigterm_saves_and_the_next_run_goes_on(tmp_path, few, monkeypatch, uninterrupted, at):
    knobs = Optim(epochs=3)
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        interrupted(patch, at)
        with pytest.raises(SystemExit) as left:
            training.train(noisy(), few, knobs, tmp_path / "cut")
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert max(int(f.name) for f in (tmp_path / "cut" / "checkpoints").iterdir()) == at
    done = []

    @contextlib.contextmanager
    def bar(what, total, done_before=0):
        yield done.append

    monkeypatch.setattr(progress, "bar", bar)
    assert same(training.train(noisy(), few, knobs, tmp_path / "cut"), uninterrupted)
    assert sum(done) == 3 * PER_EPOCH - at  # nothing is done twice


def test_sigterm_after_the_last_step_is_not_forgotten(tmp_path, few, monkeypatch, uninterrupted):
    def say(text):
        if text.startswith("epoch 3"):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(progress, "say", say)
        with pytest.raises(SystemExit, match="143"):
            training.train(noisy(), few, Optim(epochs=3), tmp_path)
    assert same(training.train(noisy(), few, Optim(epochs=3), tmp_path), uninterrupted)


def test_what_is_trained_is_not_trained_again(tmp_path, few):
    knobs = Optim(epochs=1)
    trained = training.train(softmax_regression(), few, knobs, tmp_path)
    untrainable = softmax_regression()._replace(loss=None)  # calling it raises
    assert same(training.train(untrainable, few, knobs, tmp_path), trained)


def test_the_loss_falls(tmp_path, few):
    defense = softmax_regression()
    start = training.train(defense, few, Optim(epochs=0), tmp_path / "start")
    end = training.train(defense, few, Optim(epochs=3, peak_lr=3e-2), tmp_path / "end")
    before, after = (mean_loss(defense, variables, few.train) for variables in (start, end))
    assert after < 0.7 * before


def test_every_knob_counts(tmp_path, few):
    one = {"epochs": 1}
    changes = (
        {},
        {"seed": 1},
        {"peak_lr": 0.1},
        {"batch_size": 64},
        {"weight_decay": 1.0},
        {"augment": "affine"},
    )
    trained = [
        training.train(softmax_regression(), few, Optim(**one, **change), tmp_path / str(i))
        for i, change in enumerate(changes)
    ]
    assert not any(same(trained[0], other) for other in trained[1:])


def test_each_step_augments_anew_and_perturbs_that(tmp_path, few):
    """One image twice, one step each: what the loss is given is what `augment` makes of it."""
    given = []

    def loss(variables, key, batch):
        jax.debug.callback(lambda x, clean: given.append((x, clean)), batch.x, batch.clean)
        return jnp.sum(batch.x, (1, 2, 3)) * variables["w"]

    defense = Objective(lambda key, x: {"w": jnp.ones(())}, loss, None)
    one = few._replace(train=data.Split(*(part[:1] for part in few.train)))
    training.train(defense, one, Optim(epochs=2, batch_size=1, augment="affine"), tmp_path)
    jax.effects_barrier()
    first, second = (x for x, _ in given)
    assert (first != second).any()
    for number, (x, clean) in enumerate(given):
        np.testing.assert_array_equal(x, clean)
        key = jax.random.split(jax.random.fold_in(jax.random.key(2019), number))[1]
        expected = jax.jit(augment.augment)(key, jnp.asarray(one.train.floats(0, 1)))
        np.testing.assert_allclose(x, expected, atol=1e-6)


def test_bytes_are_trained_as_the_floats_they_stand_for(tmp_path, few):
    images = np.round(few.train.images * 255).astype(np.uint8)
    as_bytes = few._replace(train=few.train._replace(images=images))
    as_floats = few._replace(train=few.train._replace(images=(images / 255).astype(np.float32)))
    knobs = Optim(epochs=1)
    one, other = (
        training.train(softmax_regression(), dataset, knobs, tmp_path / name)
        for name, dataset in (("bytes", as_bytes), ("floats", as_floats))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, other)


@pytest.mark.parametrize("batch_size", [200, 256])
def test_a_partial_batch_has_the_gradient_of_its_images(tmp_path, few, monkeypatch, batch_size):
    """One step of plain gradient descent on all images, padded or not, is that on their mean loss."""
    monkeypatch.setattr(optax, "adam", optax.sgd)
    knobs = Optim(epochs=1, batch_size=batch_size, peak_lr=0.5)
    defense = softmax_regression()
    start = training.train(defense, few, Optim(epochs=0), tmp_path / "start")
    end = training.train(defense, few, knobs, tmp_path / "end")
    x, y = jnp.asarray(few.train.images), jnp.asarray(few.train.labels)
    gradient = jax.grad(lambda v: defense.loss(v, None, whole(x, y)).mean())(start)
    for name, value in end.items():
        np.testing.assert_allclose(value, start[name] - 0.5 * gradient[name], atol=1e-6)


def test_the_rate_drops_by_ten_at_its_epoch(tmp_path, few, monkeypatch):
    monkeypatch.setattr(optax, "adam", optax.sgd)
    defense = softmax_regression()

    def train(epochs, drops):
        knobs = Optim(epochs=epochs, drops=drops, batch_size=200)
        return training.train(defense, few, knobs, tmp_path / f"{epochs}{drops}")

    before, high, low = train(1, ()), train(2, ()), train(2, (1,))
    for name, value in low.items():
        step, whole = value - before[name], high[name] - before[name]
        np.testing.assert_allclose(step, 0.1 * whole, atol=1e-7)


@pytest.mark.parametrize(("cycles", "turns"), [(1, [0, 10, 20]), (2, [0, 5, 10, 15, 20])])
def test_the_rate_rises_and_falls_in_each_cycle(cycles, turns):
    rate = Optim(peak_lr=0.4, epochs=5, cycles=cycles).schedule(4)
    ends = [0.0 if i % 2 == 0 else 0.4 for i in range(len(turns))]
    expected = np.interp(np.arange(20), turns, ends)
    np.testing.assert_allclose([rate(step) for step in range(20)], expected, atol=1e-6)


def test_early_stopping_keeps_the_best_epoch_and_resumes(tmp_path, few, monkeypatch):
    """By the accuracies .1, .5, .5, .3: the last of the best, also where a run goes on after it."""
    told = {2: 0.1, 4: 0.5, 6: 0.5, 8: 0.3}
    steps = iter([*told.values(), *list(told.values())])
    judged = []

    def accuracy(logits, variables, split, eps):
        assert split is few.valid
        judged.append(eps)
        return next(steps)

    monkeypatch.setattr(early_stopping, "robust_accuracy", accuracy)
    stopped = {"batch_size": 100, "stopping_eps": 0.25}

    def train(epochs, folder):
        return training.train(
            softmax_regression(), few, Optim(epochs=epochs, **stopped), tmp_path / folder
        )

    whole = train(4, "whole")
    third = training.train(
        softmax_regression(), few, Optim(epochs=3, batch_size=100), tmp_path / "three"
    )
    jax.tree.map(np.testing.assert_array_equal, whole, third)
    for epochs in (1, 3, 4):
        parts = train(epochs, "parts")
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert judged == [0.25] * 8
    jax.tree.map(np.testing.assert_array_equal, whole, train(4, "parts"))  # read, not trained


def test_pgd_on_held_out_images_lowers_accuracy(few):
    """A linear network falls by eps |w|_1; at 0 PGD changes nothing."""
    weight = jnp.zeros((64, 2)).at[0, 1].set(1.0)

    def logits(variables, x):
        return x.reshape(len(x), -1) @ variables

    value = np.array([0.3, 0.3, 0.7, 0.7])  # the other class has 0: right above 0
    images = np.zeros((4, 8, 8, 1), np.float32)
    images[:, 0, 0, 0] = value
    split = data.Split(images, np.array([1, 1, 1, 0], np.int32))
    found = {
        eps: early_stopping.robust_accuracy(logits, weight, split, eps) for eps in (0.0, 0.2, 0.4, 0.8)
    }
    assert found == {0.0: 0.75, 0.2: 0.75, 0.4: 0.25, 0.8: 0.0}
    assert early_stopping.accuracy(logits, weight, split) == 0.75


def test_a_net_without_parameters_is_not_trained(tmp_path, few):
    pixels = defenses.Untrained(nets.Pixels())
    objective = pixels.objective(pixels.module(10))._replace(loss=None)
    assert not jax.tree.leaves(training.train(objective, few, Optim(epochs=3), tmp_path))
    assert not jax.tree.leaves(pixels.fit(few, Optim(epochs=3), tmp_path).variables)
    assert not any(tmp_path.iterdir())


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garble(file):
    file.write_bytes(bytes(b ^ 0x5A for b in file.read_bytes()))


def remove(file):
    file.unlink()


def flip(file, place=None):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 0x10
    file.write_bytes(content)


def test_short_epochs_are_not_each_saved(tmp_path, few, monkeypatch):
    monkeypatch.setattr(checkpoints, "EVERY", 60.0)
    training.train(softmax_regression(), few, Optim(epochs=3, batch_size=100), tmp_path)
    assert [file.name for file in steps(tmp_path)] == ["6"]


def steps(folder):
    """The checkpoints, the newest first."""
    return sorted((folder / "checkpoints").glob("[0-9]*"), key=lambda f: -int(f.name))


def harm_all(folder, harm):
    for file in [f for f in folder.rglob("*") if f.is_file()]:
        harm(file)


@pytest.fixture(scope="module")
def finished(few, tmp_path_factory):
    """What two epochs give, and the folder, to be copied and not changed."""
    folder = tmp_path_factory.mktemp("finished")
    return training.train(softmax_regression(), few, Optim(epochs=2), folder), folder


def again(few, folder, epochs=2):
    return training.train(softmax_regression(), few, Optim(epochs=epochs), folder)


@pytest.mark.parametrize("harm", [truncate, garble, remove, flip])
def test_where_no_checkpoint_is_whole_it_is_one_line_and_they_stay(tmp_path, few, finished, harm):
    folder = shutil.copytree(finished[1], tmp_path / "copy")
    harm_all(folder, harm)
    before = files(folder)
    with pytest.raises(ValueError, match=r"checkpoint .* is damaged") as error:
        again(few, folder)
    assert str(steps(folder)[0]) in str(error.value)
    assert "\n" not in str(error.value)
    assert files(folder) == before


@pytest.mark.parametrize("harm", [truncate, garble, remove, flip])
def test_a_damaged_checkpoint_is_told_and_the_older_one_goes_on(tmp_path, few, finished, capsys, harm):
    whole, folder = finished[0], shutil.copytree(finished[1], tmp_path / "copy")
    newest, older = steps(folder)
    harm_all(newest, harm)
    assert same(again(few, folder), whole)
    told = capsys.readouterr().err
    assert str(newest) in told
    assert f"from {older.name}" in told
    assert steps(folder) == [newest, older]  # the newest is written anew
    assert (folder / "checkpoints" / f".{newest.name}.damaged").is_dir()
    assert same(again(few, folder), whole)
    assert str(newest) not in capsys.readouterr().err


def test_a_byte_that_flips_in_a_checkpoint_is_noticed_wherever_it_is(tmp_path, finished, capsys):
    """Three bytes of every file."""
    newest, older = steps(finished[1])
    names = [f.relative_to(finished[1]) for f in newest.rglob("*") if f.is_file()]
    for number, name in enumerate(names):
        size = (finished[1] / name).stat().st_size
        for place in {size // 4, size // 2, size - size // 4}:
            folder = shutil.copytree(finished[1], tmp_path / f"{number}_{place}")
            flip(folder / name, place)
            with checkpoints.Checkpoints(folder):
                assert [step.name for step in steps(folder)] == [older.name], (name, place)
            told = capsys.readouterr().err
            assert str(folder / newest.relative_to(finished[1])) in told
            assert name.name in told or name.name == "SHA256SUMS"


def test_what_cannot_be_read_is_not_set_aside(tmp_path, finished, monkeypatch):
    folder = shutil.copytree(finished[1], tmp_path / "copy")
    before = files(folder)

    def broken(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.hashlib, "file_digest", broken)
        with pytest.raises(ValueError, match=r"cannot be read: Input/output error"):
            checkpoints.Checkpoints(folder)
    assert files(folder) == before


def test_a_checkpoint_without_checksums_is_taken_and_told(tmp_path, few, finished, capsys):
    """Those of earlier versions have none."""
    folder = shutil.copytree(finished[1], tmp_path / "copy")
    for step in steps(folder):
        (step / "SHA256SUMS").unlink()
    assert same(again(few, folder), finished[0])
    assert str(steps(folder)[0]) in capsys.readouterr().err


def test_what_cannot_be_written_is_one_line(tmp_path, few, monkeypatch):
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(ValueError, match="checkpoints") as error:
        again(few, tmp_path)
    assert "\n" not in str(error.value)

    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
        with pytest.raises(ValueError, match=r"checkpoints.2 cannot be written: .* the disk has 100"):
            again(few, tmp_path / "small")

    def full(*_, **__):
        raise ValueError("OUT_OF_RANGE: no space\nand what tensorstore tells besides")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(ValueError, match=r"checkpoint .* cannot be written") as error:
        again(few, tmp_path / "full")
    assert str(tmp_path / "full") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "other", [convolutional, lambda: softmax_regression(12)], ids=["other names", "other shapes"]
)
def test_a_foreign_checkpoint_is_one_line_and_stays(tmp_path, few, other):
    knobs = Optim(epochs=1)
    training.train(softmax_regression(), few, knobs, tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match="of another network") as error:
        training.train(other(), few, knobs, tmp_path)
    assert "\n" not in str(error.value)
    assert files(tmp_path) == before


def test_fewer_epochs_than_trained_are_refused(tmp_path, few):
    training.train(softmax_regression(), few, Optim(epochs=2), tmp_path)
    with pytest.raises(ValueError, match="trained for 2 epochs, the recipe asks 1"):
        training.train(softmax_regression(), few, Optim(epochs=1), tmp_path)


def failing(at, value):
    """A loss that is `value` in the step of that number; None: its gradient is NaN there."""
    plain = softmax_regression()

    def loss(variables, key, batch):
        found = plain.loss(variables, key, batch)
        if value is not None:
            return jnp.where(batch.step == at, value, found)
        nothing = jnp.square(variables["b"] - lax.stop_gradient(variables["b"])).sum()
        return found + jnp.sqrt(nothing + jnp.where(batch.step == at, 0.0, 1.0))

    return plain._replace(loss=loss)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize(("at", "kept"), [(0, None), (2, 2), (3, 2)])
def test_a_loss_that_is_no_number_ends_training_after_the_last_good_checkpoint(
    tmp_path, few, value, at, kept
):
    epoch, step = divmod(at, PER_EPOCH)
    with pytest.raises(ValueError, match=f"the loss of epoch {epoch + 1}, step {step + 1}, ") as error:
        training.train(failing(at, value), few, Optim(epochs=4), tmp_path)
    assert "\n" not in str(error.value)
    found = [int(file.name) for file in (tmp_path / "checkpoints").iterdir()]
    assert found == ([] if kept is None else [kept])
    if kept:  # and from there one can go on
        knobs = Optim(epochs=2)
        mended = training.train(softmax_regression(), few, knobs, tmp_path)
        assert same(mended, training.train(softmax_regression(), few, knobs, tmp_path / "anew"))


def test_a_good_loss_after_which_parameters_are_no_numbers_is_not_saved(tmp_path, few):
    with pytest.raises(ValueError, match=r"parameter.* after epoch 2 is NaN"):
        training.train(failing(3, None), few, Optim(epochs=2), tmp_path)
    assert [int(file.name) for file in (tmp_path / "checkpoints").iterdir()] == [2]


def test_sigterm_saves_nothing_after_a_loss_that_is_no_number(tmp_path, few, monkeypatch):
    interrupted(monkeypatch, 1)
    with pytest.raises(ValueError, match="the loss of epoch 1, step 1, "):
        training.train(failing(0, jnp.nan), few, Optim(epochs=1), tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_checkpoint_that_holds_nan_is_neither_returned_nor_gone_on_from(tmp_path, few, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["knn_jax.training.train"], "_check_finite", lambda *_: None)
        training.train(failing(1, None), few, Optim(epochs=1), tmp_path)
    for epochs in (1, 2):
        with pytest.raises(ValueError, match="holds NaN"):
            training.train(softmax_regression(), few, Optim(epochs=epochs), tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("peak_lr", 0.0), ("batch_size", 0), ("epochs", -1), ("weight_decay", -1.0)),
        *(("cycles", -1), ("stopping_eps", -0.1), ("stopping_eps", 0.0), ("drops", (-1,))),
        *(("optimizer", "lion"), ("augment", "flip"), ("peak_lr", float("nan"))),
    ],
)
def test_knobs_out_of_range(field, value):
    with pytest.raises(ValueError, match=re.escape(f"{field}={value!r}")):
        Optim(**{field: value})


def test_cycles_and_drops_are_not_both():
    with pytest.raises(ValueError, match=r"cycles=1 with drops=\(1,\): give one"):
        Optim(cycles=1, drops=(1,))


def test_what_has_no_classes_is_not_stopped_early(tmp_path, few):
    objective = softmax_regression()._replace(logits=None)
    with pytest.raises(ValueError, match="this defense has no output that classifies"):
        training.train(objective, few, Optim(stopping_eps=0.1), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"norm": "l1"}, "norm='l1'"),
        ({"norm": "l2", "steps": 0}, "steps=0"),
        ({"norm": "l2", "step_size": 0.0}, "step_size=0.0"),
        ({"norm": "l2", "eps": -1.0}, "eps=-1.0"),
        ({"norm": "linf"}, "give the radius"),
    ],
)
def test_adversaries_out_of_range(knobs, message):
    with pytest.raises(ValueError, match=message):
        training.Adversary(**knobs)
