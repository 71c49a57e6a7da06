"""What the README says, held against what it says it of."""

import json
import re
import shlex
from pathlib import Path

import pytest
from scipy import stats

from knn_jax import cli, tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "results/README.md").read_text()
FOLDER = {
    file.stem: folder
    for folder in ("results", "results/studies")
    for file in sorted((ROOT / folder).glob("*.json"))
}
REPORTS = {
    name: json.loads((ROOT / folder / f"{name}.json").read_text()) for name, folder in FOLDER.items()
}


@pytest.mark.parametrize(
    ("text", "folders"),
    [(README, ["results"]), (RESULTS, ["results", "results/studies"])],
    ids=["README.md", "results/README.md"],
)
def test_the_tables_are_those_of_the_results(text, folders):
    """`python -m knn_jax.tables FILE.md results/*.json` fills them."""
    found = {name: report for name, report in REPORTS.items() if FOLDER[name] in folders}
    assert tables.fill(text, found) == text


@pytest.mark.parametrize("text", [README, RESULTS], ids=["README.md", "results/README.md"])
def test_measured_numbers_are_those_of_named_runs(text):
    """A share or norm in a sentence, 0.123, stands between the comments from which it is filled."""
    sentences = re.sub(r"<!-- (summary|details) -->.*?<!-- end -->", "", text, flags=re.DOTALL)
    bare = re.sub(r"<!-- [^>]+ -->[^<]*<!-- / -->", "", sentences)
    tabled = [line for line in bare.splitlines() if not line.startswith("|")]
    assert not re.findall(r"\b0\.\d{3}\b", "\n".join(tabled))
    assert len(re.findall("<!-- / -->", sentences)) > 20


@pytest.mark.parametrize("name", [name for name in REPORTS if REPORTS[name]["reported"]])
def test_a_papers_figures_stand_beside_what_was_trained_as_the_recipe_says(name):
    found = REPORTS[name]
    script, recipe, *knobs = shlex.split(found["command"])
    asked, *_ = cli.parse([script, str(ROOT / recipe), *knobs], "")
    assert asked.reported[found["layer"]] == found["reported"]


def test_the_files_that_published_commands_name_can_be_had():
    """Each is a recipe or a workdir of ours, or is told of in results/README.md."""
    for found in REPORTS.values():
        files = re.findall(r"\S+/\S+|\S+\.npz", found["command"])
        ours = [file for file in files if file.startswith(("configs/", "runs/"))]
        assert all(f"`{file}`" in RESULTS for file in set(files) - set(ours)), found["command"]


@pytest.mark.parametrize("file", ["README.md", "results/README.md"])
def test_every_picture_and_file_linked_is_there(file):
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / file).read_text())
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
    for name, results in benchmark("attacks_foolbox_cpu")["attacks"].items():
        ours, (rival, *_) = results.pop("ours"), results.values()
        assert (
            f"| {name} | {ours['mean']:.3f} | {rival['mean']:.3f} | {rival['ratio']:.1f} |" in RESULTS
        )
        if name != "boundary, to a like norm":
            assert ours["mean"] <= rival["mean"] + 1e-6


def test_the_time_beside_hinged_is_the_one_measured():
    found = benchmark("attacks_minimum_norm_cpu")
    for name in ("minimum_norm", "hinged"):
        assert f"| {found[f'{name}_s']:.0f} | {found[f'{name}_mean']:.3f} |" in RESULTS
    assert found["images"] == 100
    assert f"is not above on {100 * found['not_above']:.0f} of them" in RESULTS


@pytest.mark.parametrize("name", ["attacks_ask_cpu", "attacks_ask_random_cpu"])
def test_the_time_of_ask_is_the_one_measured(name):
    found = benchmark(name)
    sizes, times = (
        f"{found['images']} | {found['rows']}",
        f"{found['attack_s']:.0f} | {found['bare_s']:.0f}",
    )
    assert f"| {sizes} | {times} | {found['ratio']:.2f} |" in RESULTS


def test_norms_fall_as_the_jacobian_norm_grows():
    """The rank correlations told, over the networks of the picture."""
    found = [r for r in REPORTS.values() if "analysis" in r and r["name"] != "mnist_l2_adv_few"]
    norms = [report["attacks"][-1]["mean_norm"] for report in found]
    for measure, told in (("jacobian_norm", "rank correlation {:.2f}"), ("lid", "({:.2f})")):
        measured = [report["analysis"][measure] for report in found]
        rank = stats.spearmanr(norms, measured).statistic
        assert told.format(rank).replace("0.", ".") in RESULTS


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
