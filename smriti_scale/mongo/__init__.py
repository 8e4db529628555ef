"""MongoDB at scale: declared indexes and shard keys, queries that never scan, and no N+1."""

from smriti_scale.mongo.guard import QueryGuard, QueryGuardMiddleware
from smriti_scale.mongo.index import Index
from smriti_scale.mongo.indexes import Indexes
from smriti_scale.mongo.plan import IndexPlan
from smriti_scale.mongo.queries import Query
from smriti_scale.mongo.relations import BatchLoader, lookup_many, lookup_one

__all__ = [
    "BatchLoader",
    "Index",
    "IndexPlan",
    "Indexes",
    "Query",
    "QueryGuard",
    "QueryGuardMiddleware",
    "lookup_many",
    "lookup_one",
]
