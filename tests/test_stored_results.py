"""A stored result outlives changes in code that it does not use, and no others."""

import dataclasses
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import stubs

import knn_jax
from knn_jax import attacks, balls, certificates, classifiers, defenses, neighbors, nets, values
from knn_jax.evaluation import code, resumable
from knn_jax.report import write

PACKAGE = Path(knn_jax.__file__).parent


def closure(tree, *parts):
    """The files that those of a tree are made of, by their places in it."""
    found = set().union(*(code._closure(tree.joinpath(*part.split("/"))) for part in parts))
    return {str(file.relative_to(tree)) for file in found}


def version(tree, *parts):
    """What a result made by these files is found again by."""
    forget()
    files = sorted(closure(tree, *parts))
    return code.digest(*(tree.joinpath(file).read_text() for file in files))


def forget():
    code._closure.cache_clear()
    code._imports.cache_clear()


@pytest.fixture
def tree(monkeypatch):
    """Makes `code` read another tree in the place of knn_jax."""

    def point(root):
        forget()
        monkeypatch.setattr(code, "ROOT", root)
        return root

    yield point
    forget()


@pytest.fixture
def small(tmp_path, tree):
    """A package of an attack, two things it can be made of, and something else."""
    files = {
        "__init__.py": "",
        "balls/__init__.py": "from knn_jax.balls.l2 import L2\nfrom knn_jax.balls.linf import Linf\n",
        "balls/l2.py": "class L2: ...\n",
        "balls/linf.py": "from knn_jax import losses\nclass Linf: ...\n",
        "losses.py": "",
        "attack.py": "class Attack: ...\n",
        "pgd.py": "from knn_jax import balls\nfrom knn_jax.attack import Attack\nball = balls.L2()\n",
        "other.py": "from knn_jax.attack import Attack\n",
    }
    for name, text in files.items():
        file = tmp_path / "knn_jax" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tree(tmp_path / "knn_jax")


def put(root, name, text):
    (root / name).write_text(text)


def test_a_file_is_made_of_what_it_imports_and_of_a_package_what_it_uses(small):
    assert closure(small, "pgd.py") == {"pgd.py", "attack.py", "balls/l2.py"}
    assert closure(small, "balls/linf.py") == {"balls/linf.py", "losses.py"}
    assert closure(small, "other.py") == {"other.py", "attack.py"}


@pytest.mark.parametrize(
    ("name", "text", "survives"),
    [
        ("other.py", "changed = 1\n", True),
        ("new.py", "from knn_jax.attack import Attack\n", True),
        ("losses.py", "changed = 1\n", True),
        ("balls/linf.py", "changed = 1\n", True),
        (
            "balls/__init__.py",
            "from knn_jax.balls.l1 import L1\nfrom knn_jax.balls.l2 import L2\n",
            True,
        ),
        ("pgd.py", "from knn_jax import balls\nball = balls.L2\n", False),
        ("attack.py", "class Attack: changed = 1\n", False),
        ("balls/l2.py", "class L2: changed = 1\n", False),
        ("balls/__init__.py", "from knn_jax.balls.linf import Linf as L2\n", False),
    ],
)
def test_only_what_is_used_counts(small, name, text, survives):
    before = version(small, "pgd.py")
    put(small, name, text)
    assert (version(small, "pgd.py") == before) is survives


def test_an_import_of_a_name_in_a_module_or_under_another_counts(small):
    put(small, "pgd.py", "from knn_jax import balls as around\nball = around.Linf()\n")
    assert closure(small, "pgd.py") == {"pgd.py", "balls/linf.py", "losses.py"}
    put(small, "pgd.py", "from knn_jax.balls import L2 as Ball\n")
    forget()
    assert closure(small, "pgd.py") == {"pgd.py", "balls/l2.py"}
    for text in ("from knn_jax.balls import linf\n", "import knn_jax.balls.linf as ball\n"):
        put(small, "pgd.py", text)
        forget()
        assert closure(small, "pgd.py") == {"pgd.py", "balls/linf.py", "losses.py"}


def test_imports_within_a_function_count(small):
    put(small, "pgd.py", "def search():\n    from knn_jax.other import Attack\n")
    assert closure(small, "pgd.py") == {"pgd.py", "other.py", "attack.py"}


# On the library itself.


@pytest.fixture
def copied(tmp_path, tree):
    """A copy of the library that may be changed."""
    return tree(shutil.copytree(PACKAGE, tmp_path / "knn_jax", ignore=shutil.ignore_patterns("*.pyc")))


def place(part):
    """Where a class or function of the library is written."""
    return str(Path(sys.modules[part.__module__].__file__).relative_to(PACKAGE))


RESULT = [place(part) for part in (attacks.MinimumNorm, attacks.Attack, classifiers.KNN)]


@pytest.mark.parametrize(
    "unused", [attacks.Boundary, certificates.Exact, defenses.ASK, write.write, nets.Pixels]
)
def test_a_result_survives_a_change_in_what_it_does_not_use(copied, unused):
    name = place(unused)
    before = version(copied, *RESULT)
    put(copied, name, (copied / name).read_text() + "\nchanged = 1\n")
    assert version(copied, *RESULT) == before


@pytest.mark.parametrize(
    "used",
    [attacks.MinimumNorm, attacks.Attack, balls.ball, values.value, neighbors.search, neighbors.Cosine],
)
def test_a_result_does_not_survive_a_change_in_what_it_uses(copied, used):
    name = place(used)
    before = version(copied, *RESULT)
    put(copied, name, (copied / name).read_text() + "\nchanged = 1\n")
    assert version(copied, *RESULT) != before


def test_a_result_survives_a_new_attack_and_its_export(copied):
    before = version(copied, *RESULT)
    put(copied, "attacks/mine.py", (copied / place(attacks.Boundary)).read_text())
    exports = copied / "attacks" / "__init__.py"
    exports.write_text(exports.read_text() + "\nfrom knn_jax.attacks.mine import Boundary as Mine\n")
    assert version(copied, *RESULT) == before


def test_the_version_is_of_the_classes_their_bases_and_what_these_use():
    forget()
    one = code.version(attacks.MinimumNorm, classifiers.KNN)
    assert one == code.version(attacks.MinimumNorm, classifiers.KNN)
    others = {
        code.version(attacks.Boundary, classifiers.KNN),
        code.version(attacks.MinimumNorm, classifiers.Network),
        code.version(certificates.Margin, classifiers.KNN),
    }
    assert len(others | {one}) == 4


def test_an_attack_of_ones_own_is_known_by_its_own_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "from knn_jax.attacks import Boundary\n\n\nclass Mine(Boundary):\n    pass\n"
    (tmp_path / "an_attack_of_mine.py").write_text(text)
    import an_attack_of_mine

    forget()
    before = code.version(an_attack_of_mine.Mine)
    (tmp_path / "an_attack_of_mine.py").write_text(text + "\n\nchanged = 1\n")
    forget()
    assert code.version(an_attack_of_mine.Mine) != before


def test_the_classes_of_a_value_are_those_of_all_that_it_holds():
    net = nets.digits_convnet().build(10)
    x = jnp.zeros((10, 8, 8, 1))
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    features = nets.features(net, variables, ("relu1",), x.shape)
    found = code.classes(attacks.ASK(metric=neighbors.Chebyshev()), {"of": (features, features)})
    assert {attacks.ASK, neighbors.Chebyshev, type(net)} <= found


def test_results_are_of_the_code_of_the_network_and_the_metric(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(resumable, "version", lambda *classes: seen.append(set(classes)) or "")
    system = stubs.system()
    net = nets.digits_convnet().build(3)
    model = dataclasses.replace(system.model, logits=nets.output(net, {}))
    system = dataclasses.replace(system, model=model, sources={"network": stubs.system().model})
    attack, metric = attacks.ASK(metric=neighbors.Chebyshev()), neighbors.Chebyshev
    code_of = {"code": (attack,), "source": system.sources["network"]}
    resumable.Resumable("ask", None, system, 3, 3, tmp_path, **code_of)
    assert {attacks.ASK, metric, classifiers.Network, type(net), classifiers.KNN} <= seen[0]
