"""What the texts say, held against what they say it of: numbers, tables, commands, samples, links."""

import ast
import dataclasses
import importlib.util
import inspect
import json
import re
import runpy
import shlex
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from knn_jax import attacks, certificates, classifiers, cli
from knn_jax.cli import several
from knn_jax.recipe import Recipe, papers, read, variants
from knn_jax.report import markdown, methods, pairs, pipes, recipes

ROOT = Path(__file__).parent.parent
TEXTS = {
    name: (ROOT / name).read_text()
    for name in (
        *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md"),
        *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md"))),
    )
}
README, RESULTS = TEXTS["README.md"], TEXTS["results/README.md"]
FILES = {
    file.stem: file
    for folder in ("results", "results/studies")
    for file in sorted((ROOT / folder).glob("*.json"))
}
REPORTS = {name: json.loads(file.read_text()) for name, file in FILES.items()}
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
SCRIPTS = r"(?:attack|train|certify)\.py"
GIVEN = {"workdir", "data-path", "attack", "certificate", "keep-programs", "no-keep-programs", "help"}
GIVEN |= {name for name, *_ in several.FLAGS}
ELSEWHERE = {"file_format", "worker", "command"}  # flags of other programs


@pytest.mark.parametrize("name", ["README.md", "docs/results.md", "results/README.md"])
def test_tables_and_numbers_are_those_of_the_results(name):
    """`python -m knn_jax.report.markdown FILE.md results/*.json` fills them."""
    every = name == "results/README.md"
    found = {run: r for run, r in REPORTS.items() if every or FILES[run].parent.name == "results"}
    assert markdown.fill(TEXTS[name], found) == TEXTS[name]


def test_the_table_of_pairs_is_that_of_the_images():
    """`python -m knn_jax.report.pairs results/README.md results/*.json` fills it."""
    made = pairs.table([file for file in FILES.values() if file.parent.name == "results"])
    assert pipes.put(RESULTS, "pairs", made) == RESULTS


@pytest.mark.parametrize("name", ["README.md", "docs/results.md", "results/README.md"])
def test_measured_numbers_are_those_of_named_runs(name):
    """A share or norm in a sentence, 0.123, stands between the comments from which it is filled."""
    text = re.sub(r"<!-- (summary|details|pairs) -->.*?<!-- end -->", "", TEXTS[name], flags=re.DOTALL)
    bare = re.sub(r"<!-- [^>]+ -->[^<]*<!-- / -->", "", text)
    sentences = [line for line in bare.splitlines() if not line.startswith("|")]
    assert not re.findall(r"\b0\.\d{3}\b", "\n".join(sentences))
    assert "<!-- / -->" in text


def test_the_table_of_recipes_is_that_of_the_recipes(monkeypatch):
    """`python -m knn_jax.report.recipes docs/recipes.md configs/*.py results/*.json ...` fills it."""
    monkeypatch.chdir(ROOT)
    published = {REPORTS[run]["recipe"]: file.relative_to(ROOT) for run, file in FILES.items()}
    text = TEXTS["docs/recipes.md"]
    assert recipes.fill(text, [file.relative_to(ROOT) for file in CONFIGS], published) == text


def test_the_tables_of_methods_are_those_of_the_values():
    """`python -m knn_jax.report.methods docs/methods.md` fills them."""
    text = TEXTS["docs/methods.md"]
    assert methods.fill(text) == text
    assert all(f"<!-- {name} -->" in text for name in methods.TABLES)


@pytest.mark.parametrize("name", [name for name in REPORTS if REPORTS[name]["reported"]])
def test_a_papers_figures_are_those_of_the_recipe(name):
    found = REPORTS[name]
    recipe, _ = read(str(ROOT / found["recipe"]))
    assert recipe.paper.figures[found["layer"]] == found["reported"]


def test_the_files_that_published_commands_name_can_be_had():
    """Each is a recipe or a workdir of ours, or stands in the table of results/README.md."""
    for found in REPORTS.values():
        command = found["made_by"]["command"]
        files = set(re.findall(r"\S+/\S+|\S+\.npz", command))
        theirs = {file for file in files if not file.startswith(("configs/", "runs/"))}
        assert all(f"`{file}`" in RESULTS for file in theirs), command


def anchors(text):
    """Names of the headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]*)\)", TEXTS[name]):
        if re.match(r"https?://", link):
            continue
        place, _, anchor = link.partition("#")
        file = (ROOT / name).parent.joinpath(place) if place else ROOT / name
        assert link, name
        assert file.is_file(), link
        assert not anchor or anchor in anchors(file.read_text()), link


def commands(text):
    """The calls of the three scripts, in blocks and in sentences, without those of RECIPE."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in fenced if not language]
    inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    lines = [line for block in blocks for line in block.splitlines()]
    for code in (*lines, *(" ".join(part.split()) for part in inline)):
        found = re.search(rf"python {SCRIPTS} configs/[^#&]*", code)
        if found:
            yield found[0].strip()


@pytest.mark.parametrize("name", TEXTS)
def test_commands_name_recipes_variants_and_flags_that_exist(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("mnist.npz", nothing=0)  # of which only the name is asked here
    for command in commands(TEXTS[name]):
        command = command.replace("gs://bucket/mnist.npz", "mnist.npz")
        _, script, place, *given = shlex.split(command)
        cli.parse([script, str(ROOT / place), *(word for word in given if word != "--help")], "")


def test_there_are_commands_to_check():
    assert sum(len(list(commands(text))) for text in TEXTS.values()) > 10


def test_modules_that_are_run_exist():
    """Of `python -m knn_jax...`, but for the old names in the changelog's history."""
    for name, text in TEXTS.items():
        text = text.split("\nWhat may change")[0] if name == "CHANGELOG.md" else text
        rows = "\n".join(
            row.split("|")[2] if row.startswith("|") and name == "CHANGELOG.md" else row
            for row in text.splitlines()
        )
        for module in re.findall(r"python -m (knn_jax[\w.]*)", rows):
            assert importlib.util.find_spec(module), (name, module)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_recipes_text_names_variants_that_exist(file):
    module = runpy.run_path(str(file))
    texts = [inspect.getdoc(made) or "" for made in variants(module).values()]
    text = " ".join([module["__doc__"], *texts])
    for place, variant in re.findall(rf"python {SCRIPTS} (configs/\w+\.py):?(\w*)", text):
        assert variant in {"", *variants(runpy.run_path(str(ROOT / place)))}, (place, variant)


def knobs(value, prefix=""):
    """The dotted names of a value's knobs, as the command line has them."""
    parts = value if isinstance(value, Mapping) else vars(value)
    for name, part in parts.items():
        dotted = f"{prefix}{name}".replace("_", "-")
        if isinstance(part, Mapping) or dataclasses.is_dataclass(part):
            yield from knobs(part, f"{dotted}.")
        else:
            yield dotted


def snake(name):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def every(library, base):
    """The values of a package as they are by default, by their names on the command line."""
    kinds = (
        kind for kind in vars(library).values() if inspect.isclass(kind) and issubclass(kind, base)
    )
    return {snake(kind.__name__): kind() for kind in kinds if not inspect.isabstract(kind)}


def benchmark_flags():
    """Of the benchmarks' commands, which are the arguments of their functions."""
    for file in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                yield from (argument.arg.replace("_", "-") for argument in node.args.args)


def test_flags_in_the_texts_exist():
    """In some recipe, or of the library's attacks and certificates, or of a benchmark; in the changelog
    the new ones."""
    known = {*GIVEN, *benchmark_flags()}
    for file in CONFIGS:
        for make in variants(runpy.run_path(str(file))).values():
            known |= set(knobs(make()))
    library = every(attacks, attacks.Attack), every(certificates, certificates.Certificate)
    known |= {*knobs(library[0], "attacks."), *knobs(library[1], "certificates.")}
    known |= {f"measures.{name}" for name in ("local-dimension.images", "jacobian-norm.images")}
    texts = {name: text for name, text in TEXTS.items() if name != "CHANGELOG.md"}
    rows = [row.split("|") for row in TEXTS["CHANGELOG.md"].splitlines() if row.startswith("| `")]
    texts["CHANGELOG.md"] = "\n".join(row[2] for row in rows)
    for name, text in texts.items():
        for flag in re.findall(r"(?<![\w-])--([a-z][\w.-]*\w)", re.sub(r"<!--.*?-->", "", text)):
            assert flag in known | ELSEWHERE, (name, flag)


def test_the_readme_is_short_and_names_the_papers():
    assert README.count("\n") <= 160
    words = " ".join(README.split())
    five = papers.SITAWARIN_WAGNER, papers.ZHAO_CHO, papers.QIAN_AN_SU, papers.WANG, papers.SERBAN
    for paper in five:
        assert paper.title in words
        assert paper.link in words


def test_no_paper_goes_by_a_number():
    """All have authors; the five had numbers once."""
    files = [ROOT / name for name in TEXTS]
    for folder in ("knn_jax", "configs", "tests", "benchmarks"):
        files += (ROOT / folder).rglob("*.py")
    numbered = re.compile(r"\bpapers? [1-5]\b", re.IGNORECASE)
    assert not [file for file in files if numbered.search(file.read_text())]


def benchmark(name):
    return json.loads((ROOT / f"results/benchmarks/{name}.json").read_text())


def test_the_benchmark_is_the_one_measured():
    for shape in benchmark("neighbors_cpu")["shapes"]:
        rivals = shape["rivals"]
        others = " | ".join(f"{rivals[name]['ratio']:.2f}" for name in ("torch", "sklearn"))
        ours = f"{rivals['ours']['ms']:.4g} | {shape['ratio']:.2f} | {others}"
        assert f"| {shape['name']} | {ours} |" in TEXTS["docs/search.md"]


def test_the_attacks_are_the_ones_measured():
    """Mean norms and ratios beside Foolbox and SciPy, and each norm at least as small."""
    for name, results in benchmark("attacks_foolbox_cpu")["attacks"].items():
        ours, (rival, *_) = results.pop("ours"), results.values()
        row = f"| {name} | {ours['mean']:.3f} | {rival['mean']:.3f} | {rival['ratio']:.1f} |"
        assert row in RESULTS
        if name != "boundary, to a like norm":
            assert ours["mean"] <= rival["mean"] + 1e-6


def test_the_time_beside_hinged_is_the_one_measured():
    found = benchmark("attacks_minimum_norm_cpu")
    for name in ("minimum_norm", "hinged"):
        assert f"| {found[f'{name}_s']:.0f} | {found[f'{name}_mean']:.3f} |" in RESULTS
    assert found["images"] == 100
    assert f" {100 * found['not_above']:.0f} of them" in RESULTS


@pytest.mark.parametrize("name", ["attacks_ask_cpu", "attacks_ask_random_cpu"])
def test_the_time_of_ask_is_the_one_measured(name):
    found = benchmark(name)
    sizes = f"{found['images']} | {found['rows']}"
    times = f"{found['attack_s']:.0f} | {found['bare_s']:.0f}"
    assert f"| {sizes} | {times} | {found['ratio']:.2f} |" in RESULTS


def test_norms_fall_as_the_jacobian_norm_grows():
    """The rank correlations in the text, over the networks of the picture."""
    not_drawn = re.compile(r"mnist_l2_adv_few|.*_authors")
    measured = [r for r in REPORTS.values() if "analysis" in r]
    found = [r for r in measured if not not_drawn.fullmatch(r["name"])]
    norms = [report["attacks"][-1]["mean_norm"] for report in found]
    for measure, text in (("jacobian_norm", "correlation {:.2f}"), ("lid", "({:.2f})")):
        measured = [report["analysis"][measure] for report in found]
        assert text.format(stats.spearmanr(norms, measured).statistic) in RESULTS


def test_the_map_names_every_folder_and_module():
    names = {path.stem for path in (ROOT / "knn_jax").glob("*") if not path.name.startswith("_")}
    section = TEXTS["CONTRIBUTING.md"].split("## The map")[1].split("```")[1]
    assert not [name for name in names - {"py"} if not re.search(rf"^ {name}\b", section, re.MULTILINE)]


def samples(name):
    return re.findall(r"```python\n(.*?)```", TEXTS[name], re.DOTALL)


@pytest.fixture
def given(tmp_path, monkeypatch):
    """What samples are given: 90 images of 2x2 pixels, half of each class."""
    monkeypatch.chdir(tmp_path)
    images = jax.random.uniform(jax.random.key(0), (90, 2, 2, 1))
    labels = jnp.arange(90, dtype=jnp.int32) % 2
    bank = images.reshape(90, -1)
    np.save("bank.npy", np.asarray(bank[:88]))

    def features(x):
        return x.reshape(len(x), -1)

    near = {"query": bank[:3], "bank": bank, "labels": labels, "images": images, "features": features}
    model = classifiers.knn(features, images, labels, k=5)
    return near | {"x": images[:2], "y": labels[:2], "model": model}


def test_the_samples_of_the_readme_run(given):
    contract, own = samples("README.md")
    exec(contract, given)
    assert given["near"].index.shape == (3, 75)
    assert given["found"].image.shape == given["x"].shape
    assert given["radius"].shape == (2,)
    exec(own, alone := {})
    beside = jnp.clip(given["images"] + 0.02, 0, 1)  # on a row itself its vote has no slope
    attack = alone["OneStep"]()
    found = attack(jax.random.key(0), given["nearest"], beside, given["labels"], eps=0.3)
    assert (found.norm[found.success] <= 0.3 + 1e-6).all()
    assert found.success.any()


@pytest.mark.parametrize("name", [name for name in TEXTS if name.startswith("docs/") and samples(name)])
def test_the_samples_of_a_page_run(name, given):
    given["labels"] = given["labels"] if name != "docs/devices.md" else given["labels"][:88]
    for sample in samples(name):
        exec(sample, given)
    if name == "docs/running.md":
        assert isinstance(given["wider"](), Recipe)


def test_the_skeletons_to_copy_attack_and_certify(given):
    """The attack fools in its ball; the certificate is at most the distance to the boundary."""
    attack, certificate = samples("CONTRIBUTING.md")
    exec(attack, made := {})
    exec(certificate, made)
    x, y = jnp.clip(given["images"] + 0.02, 0, 1), given["labels"]
    for norm, eps in (("linf", 0.2), ("l2", 0.3)):
        found = made["Ascent"]()(jax.random.key(0), given["model"], x, y, norm=norm, eps=eps)
        assert (found.norm[found.success] <= eps).all()
        assert found.success.sum() > (~given["model"].right(x, y)).sum()
    weights = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    network = classifiers.network(lambda x: x.reshape(len(x), -1) @ weights, x, y)
    radius = made["LogitMargin"]()(network, x, y, lipschitz=1.0)
    logits = x.reshape(len(x), -1)[:, :2]
    lead = jnp.take_along_axis(logits, y[:, None], 1)[:, 0] - logits[jnp.arange(90), 1 - y]
    assert jnp.allclose(radius, jnp.maximum(lead, 0) / 2**0.5, atol=1e-4)
    assert (radius <= jnp.maximum(lead, 0) / 2**0.5).all()
    with pytest.raises(ValueError, match="LogitMargin needs"):
        made["LogitMargin"]()(given["model"], x, y, lipschitz=1.0)
