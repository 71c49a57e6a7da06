"""The same network with and without neighbours, on the same images: who is a pair, and what differs."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

from knn_jax.report import pairs

COLUMNS = "index", "label", "clean", "ours_l2_adversarial", "ours_l2_norm"


def images(norms, wrong=(), order=None):
    """One row an image, of class 1."""
    order = range(len(norms)) if order is None else order
    return [
        dict(zip(COLUMNS, map(str, (i, 1, 2 if i in wrong else 1, 3, norms[i])), strict=True))
        for i in order
    ]


def report(layer, weights="theirs", digest="same", steps=40):
    attacks = [{"name": "ours", "norm": "l2"}, {"name": "least of all", "norm": "l2"}]
    return {
        **{"name": layer, "layer": layer, "weights": weights, "test_digest": digest},
        **{"clean_acc": 0.9, "attacks": attacks, "reported": {"mean_l2": 1.5}},
        "config": {"attacks": {"ours": {"steps": steps}}},
    }


def test_images_are_paired_by_index_and_only_where_both_are_right_and_fooled():
    one = images([1.0, 2.0, 3.0, np.inf, 5.0, 0.0, 7.0], wrong=[6])
    two = images([1.5, 1.0, 4.0, 4.0, "", 6.0, 7.0, 8.0], order=[7, 2, 1, 0, 3, 4, 5, 6])
    found = pairs.difference(one, two, "ours_l2_norm")
    assert (found.n, found.larger) == (3, pytest.approx(2 / 3))
    assert found.means == pytest.approx((2.0, 6.5 / 3))
    assert found.mean == pytest.approx(0.5 / 3)
    theirs = stats.ttest_rel([1.5, 1.0, 4.0], [1.0, 2.0, 3.0]).confidence_interval(0.95)
    assert found.interval == pytest.approx((theirs.low, theirs.high))


def test_a_constant_difference_is_known_exactly():
    found = pairs.difference(images([1.0, 2.0, 4.0]), images([1.25, 2.25, 4.25]), "ours_l2_norm")
    assert found.interval == pytest.approx((0.25, 0.25))
    assert found.larger == 1


def test_one_image_makes_no_interval():
    with pytest.raises(ValueError, match="1 images in common"):
        pairs.difference(images([1.0, 2.0], wrong=[1]), images([1.0, 2.0]), "ours_l2_norm")


def test_a_pair_has_the_same_weights_and_images_and_the_network_alone_in_one():
    def made(*of):
        return pairs.Published(report(*of), images([1.0, 2.0]))

    alone, other, trained = made("output"), made("relu3"), made("relu3", "")
    more = made("relu1"), made("relu3", "others"), made("relu3", "theirs", "in another order")
    found = pairs.paired([other, alone, trained, made("output", ""), *more])
    assert [(one.report["layer"], two.report["layer"]) for one, two in found] == [
        ("output", "relu3"),
        ("output", "relu1"),
    ]
    assert all(one is alone for one, _ in found)


def published(folder, name, layer, norms, **knobs):
    """A report with its images, in a folder."""
    (folder / f"{name}.json").write_text(json.dumps(report(layer, **knobs)))
    with open(folder / f"{name}.csv", "w", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        rows.writerows(images(norms))
    return folder / f"{name}.json"


def test_an_attack_of_other_knobs_is_no_pair(tmp_path):
    one = published(tmp_path, "a", "output", [1.0, 2.0])
    other = published(tmp_path, "b", "relu3", [2.0, 4.0], steps=60)
    with pytest.raises(ValueError, match=r"^output and relu3: ours has other knobs"):
        pairs.table([one, other])


def test_the_table_is_put_into_its_place(tmp_path, monkeypatch):
    published(tmp_path, "a", "output", [1.0, 2.0])
    published(tmp_path, "b", "relu3", [2.0, 4.0])
    (tmp_path / "c.json").write_text(json.dumps(report("relu3")))  # its images are not published
    text = tmp_path / "text.md"
    text.write_text("before\n<!-- pairs -->\nold\n<!-- end -->\nafter\n")
    files = [str(tmp_path / f"{name}.json") for name in "abc"]
    monkeypatch.setattr("sys.argv", ["pairs", str(text), *files])
    pairs.main()
    filled = text.read_text()
    assert "old" not in filled
    [row] = [line for line in filled.splitlines() if line.startswith("| theirs")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == len(pairs.HEAD)
    assert cells[6:9] == ["2", "1.500", "3.000"]
    assert cells[9].startswith("+1.500 [")


@pytest.mark.parametrize("content", ["", "index,label\n1,2\n", "\0"])
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(report("output")))
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=r"a\.csv cannot be read") as error:
        pairs.table([tmp_path / "a.json"])
    assert "\n" not in str(error.value)
