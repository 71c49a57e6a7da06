"""What the README says, held against what it says it of."""

import json
import re
from pathlib import Path

import pytest

from knn_jax import tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "results/README.md").read_text()


@pytest.mark.parametrize(
    ("text", "folders"),
    [(README, ["results"]), (RESULTS, ["results", "results/studies"])],
    ids=["README.md", "results/README.md"],
)
def test_the_tables_are_those_of_the_results(text, folders):
    """`python -m knn_jax.tables FILE.md results/*.json` fills them."""
    files = [file for folder in folders for file in sorted((ROOT / folder).glob("*.json"))]
    found = [json.loads(file.read_text()) for file in files]
    assert tables.fill(text, found) == text


@pytest.mark.parametrize("file", ["README.md", "results/README.md"])
def test_every_picture_and_file_linked_is_there(file):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / file).read_text())
    assert len(links) > 2
    assert not [link for link in links if not (ROOT / file).parent.joinpath(link).is_file()]


def benchmark(name):
    return json.loads((ROOT / f"results/benchmarks/{name}.json").read_text())


def test_the_benchmark_is_the_one_measured():
    for shape in benchmark("neighbors_cpu")["shapes"]:
        rivals = shape["rivals"]
        others = " | ".join(f"{rivals[name]['ratio']:.2f}" for name in ("torch", "sklearn"))
        ours = f"{rivals['ours']['ms']:.4g} | {shape['ratio']:.2f} | {others}"
        assert f"| {shape['name']} | {ours} |" in README


def test_the_attacks_are_the_ones_measured():
    """Mean norms and ratios beside Foolbox and SciPy, and each norm at least as small."""
    results = benchmark("attacks_foolbox_cpu")["attacks"]
    section = " ".join(RESULTS.split("Paper 2's five on")[1].split("##")[0].split())
    for name in ("fgsm", "ifgsm", "deepfool", "lbfgs", "boundary"):
        ours, (rival, *_) = results[name].pop("ours"), results[name].values()
        assert f"{ours['mean']:.3f} and {rival['mean']:.3f}, {rival['ratio']:.1f}" in section
        assert ours["mean"] <= rival["mean"] + 1e-6


def test_the_time_beside_paper_1s_later_attack_is_the_one_measured():
    found = benchmark("attacks_minimum_norm_cpu")
    told = " ".join(RESULTS.split())
    ours = f"`minimum_norm(steps={found['steps']}, starts={found['starts']})`"
    assert f"first {found['images']} test images {ours} takes {found['minimum_norm_s']:.0f} s" in told
    assert f"`hinged()` takes {found['hinged_s']:,.0f}, 1/{found['speedup']:.0f} of the time" in told
    means = f"{found['minimum_norm_mean']:.3f} against {found['hinged_mean']:.3f}"
    assert f"its mean is {means}, and it is not above on {100 * found['not_above']:.0f} of 100" in told


def test_the_time_of_ask_is_the_one_measured():
    found = benchmark("attacks_ask_cpu")
    told = " ".join(RESULTS.split())
    size = f"{found['images']:,} images, {found['rows']:,} rows"
    assert f"{size}, takes {found['attack_s']:.0f} s" in told
    assert f"bare network take {found['bare_s']:.0f}, a ratio of {found['ratio']:.2f}" in told
    found = benchmark("attacks_ask_random_cpu")
    times = f"{found['images']} images: {found['attack_s']:.0f} s and {found['bare_s']:.0f}"
    assert f"with random weights the ratio is {found['ratio']:.2f} ({times})" in told


def test_the_map_names_every_module():
    modules = {path.stem for path in (ROOT / "knn_jax").glob("*") if not path.name.startswith("_")}
    section = README.split("## The map")[1]
    assert not [module for module in modules if module not in section]


def test_the_example_runs():
    """The 12 lines of the contract, on a handful of pixels."""
    import jax
    import jax.numpy as jnp

    images = jax.random.uniform(jax.random.key(0), (90, 2, 2, 1))
    names = {
        "features": lambda x: x.reshape(len(x), -1),
        "images": images,
        "labels": jnp.arange(90, dtype=jnp.int32) % 2,
        "x": images[:2],
        "y": jnp.array([0, 1], jnp.int32),
        "query": images[:3].reshape(3, -1),
        "bank": images.reshape(90, -1),
    }
    exec(README.split("```python")[1].split("```")[0], names)
    assert names["near"].index.shape == (3, 75)
    assert names["found"].image.shape == names["x"].shape
    assert names["radius"].shape == (2,)
    own = README.split("An attack of your own")[1].split("```python")[1].split("```")[0]
    exec("import jax.numpy as jnp\n" + own, names)
    beside = jnp.clip(images + 0.02, 0, 1)  # on a row itself its vote has no slope
    found = names["one_step"](jax.random.key(0), names["nearest"], beside, names["labels"], eps=0.3)
    assert (found.norm[found.success] <= 0.3 + 1e-6).all()
    assert found.success.any()


def test_every_recipe_is_listed():
    assert not [p for p in (ROOT / "configs").glob("*.py") if f"configs/{p.name}" not in README]
