"""The local intrinsic dimension of features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from knn_jax import neighbors, values
from knn_jax.classifiers import BATCH
from knn_jax.measures.measure import SECONDS, Measure, Measured
from knn_jax.neighbors import Sharded


@values.value
class LocalDimension(Measure):
    """Local intrinsic dimension of the first layer about test images, by `lid`."""

    images: int
    """Number of test images that are measured, the first of the set."""
    neighbors: int = 3000
    """Nearest rows that the dimension is estimated from."""

    cites = "Amsaleg et al. 2015; as in Sitawarin & Wagner 2019, arXiv:1906.09525, Table 4"

    def __post_init__(self):
        values.at_least(1, images=self.images)
        values.at_least(2, neighbors=self.neighbors)

    def check(self, dataset, bank_rows):
        """Raises ValueError also for more neighbours than the bank has rows."""
        super().check(dataset, bank_rows)
        if self.neighbors > bank_rows:
            raise ValueError(
                f"LocalDimension: neighbors={self.neighbors} asked of a bank of {bank_rows} rows: "
                f"use 2 to {bank_rows}"
            )

    def run(self, context):
        """The dimension at each image (`lid`), and its mean over the images where it is finite."""

        def dimension(model, key, x, y):
            del key, y
            return {"lid": lid(model.features(x)[0], model.banks[0], self.neighbors)}

        arrays = context.over(
            "local_dimension", dimension, self.first(context.dataset.test), [self.neighbors]
        )
        found = np.asarray(arrays["lid"])
        finite = found[np.isfinite(found)]
        told = {
            "layer": context.layer,
            "n": len(found),
            "lid": float(finite.mean()) if len(finite) else None,
            SECONDS: round(float(arrays[SECONDS]), 3),
        }
        return Measured({"analysis": told}, {"lid": found})


def lid(
    query_features: Float[Array, "query dim"], bank: Num[Array, "row dim"] | Sharded, k: int = 3000
) -> Float[Array, " query"]:
    """Local intrinsic dimension about each query, by maximum likelihood over its k nearest rows.

    That is -1 / mean of log(d_i / d_k) over all i <= k, the last and zero term included (Amsaleg et al.
    2015; Sitawarin & Wagner 2019 with k = 3000), where d_i are Euclidean distances. It is 0 where a row
    equals the query, the formula's limit, so search a bank without the queries' own rows; inf where all
    k rows are equally far; and 0 where fewer than k rows are at a finite distance, as where features
    are no numbers. `bank` is one that `neighbors.search` takes, with its errors; ValueError also for
    k = 1, which says nothing.
    """
    if k == 1:
        raise ValueError("k=1: the dimension is how distances grow, so use 2 neighbours or more")
    return _lid(query_features, bank, k)


@functools.partial(jax.jit, static_argnames="k")
def _lid(query, bank, k):
    def batch(query):
        distance = neighbors.search(query, bank, k).distance
        growth = jnp.where(distance > 0, jnp.log(distance[:, -1:]) - jnp.log(distance), jnp.inf)
        return jnp.where(jnp.isfinite(distance).all(1), 1 / growth.mean(1), 0.0)

    return neighbors.in_tiles(batch, BATCH)(query)
