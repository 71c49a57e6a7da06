"""Exact nearest-neighbour search, whatever the metric, the size and the devices; and votes.

`search(query, bank, k)` returns the k rows of a bank that are nearest to each query, the same rows that
measuring every row would find, and their distances. It goes one of two ways, which the metric and the
shapes decide when the program is traced (`two_stage.nearest`):

    query (Q, D), bank (N, D), k
       |
       |  the metric has no bounds, or Q N D <= tiles.DIRECT, or k is most of the rows
       +-----------------------------------------> every row is measured        (direct)
       |
       +---> filter: a matmul scores the rows tile by tile,                  (two_stage)
             the best, few more than k, are candidates
                |
                v
             refine: the candidates are measured  <--------------- repair: other candidates
                |                                                    ^
                v                                                    |
             proof: no other row can be nearer?  -- no --------------+
                |
                | yes
                v
             distance (Q, k), index (Q, k)

Each step stands once in the program, so that it compiles quickly: a repair gives other candidates, and
goes back to measure them.

**Two stages.** A matmul is many times faster than measuring, and less exact: |q|^2 - 2 <q, b> + |b|^2
cancels. So it only filters. The score of a row bounds its distance from below, with all rounding and
underflow counted in (`precision`, `distances`): `BoundedMetric.floor` turns the best score that was
left behind into a distance below which none of the other rows can be. `top_k.select` keeps the k best
and a few to spare by a threshold and by counting, without a sort; these candidates are measured pair by
pair, as sum((q - b)^2). If the floor is above the k-th of their distances, they are proven the nearest.

**Repair.** If not, and only for such queries, more is done. In a bank of more than `precision.BLOCK`
dimensions the filter runs again, over rows less the centre of a sample of them and block by block,
where rounding is in proportion to what tells rows apart. A bank of up to `tiles.SMALL` rows is scored
less its centre from the first, and this step is left out. Where no bound can decide, every row is
measured. So data that no bound can tell apart cost time and never a neighbour.

**A metric of one's own** needs `distance` alone (`metric.Metric`). It has no bounds, and every row is
measured, tile by tile.

**Numbers that are none.** A row with a NaN or an infinity is nobody's neighbour. A row whose square
overflows voids the bounds of all queries: every row is measured, scaled pair by pair.

**Ties.** Rows at the same floating-point distance come lower row first. Candidates of every way are
measured by the same steps, and merged by (distance, index) as integers (`float_order`), so that tiles,
pieces (`stream`) and devices (`sharded`) make the same whole (`result.merge`).

**Memory** is one tile of scores beside O(Q k); `tiles` says how large tiles are on which device.
"""

from knn_jax.neighbors.distances import (
    Chebyshev,
    Cosine,
    Euclidean,
    InnerProduct,
    Name,
    Subspaces,
    named,
)
from knn_jax.neighbors.estimate import Estimate, estimate
from knn_jax.neighbors.metric import BoundedMetric, Metric, fast_distance
from knn_jax.neighbors.minkowski import Minkowski
from knn_jax.neighbors.padded import padded
from knn_jax.neighbors.precision import rounding
from knn_jax.neighbors.result import Neighbors, merge
from knn_jax.neighbors.search import search
from knn_jax.neighbors.sharded import Sharded, shard
from knn_jax.neighbors.stream import stream
from knn_jax.neighbors.tiles import in_tiles
from knn_jax.neighbors.top_k import top_k
from knn_jax.neighbors.votes import nearness, ranks, soft_votes, votes

__all__ = [
    "BoundedMetric",
    "Chebyshev",
    "Cosine",
    "Estimate",
    "Euclidean",
    "InnerProduct",
    "Metric",
    "Minkowski",
    "Name",
    "Neighbors",
    "Sharded",
    "Subspaces",
    "estimate",
    "fast_distance",
    "in_tiles",
    "merge",
    "named",
    "nearness",
    "padded",
    "ranks",
    "rounding",
    "search",
    "shard",
    "soft_votes",
    "stream",
    "top_k",
    "votes",
]
