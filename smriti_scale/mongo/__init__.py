"""MongoDB at scale: replicas that show one's own writes, declared indexes, queries that never scan, and no N+1."""

from smriti_scale.mongo.causal_token import CausalToken
from smriti_scale.mongo.clients import MongoClients
from smriti_scale.mongo.consistency import ReadYourWritesMiddleware, identify
from smriti_scale.mongo.guard import QueryGuard
from smriti_scale.mongo.guard_middleware import QueryGuardMiddleware
from smriti_scale.mongo.index import Index
from smriti_scale.mongo.indexes import Indexes
from smriti_scale.mongo.plan import IndexPlan
from smriti_scale.mongo.position_store import PositionStore
from smriti_scale.mongo.queries import Query
from smriti_scale.mongo.relations import BatchLoader, lookup_many, lookup_one
from smriti_scale.mongo.sharding import ShardKey, Zone
from smriti_scale.mongo.status import MongoStatus, NodeStatus, PoolStatus
from smriti_scale.mongo.unavailable import handle_unavailable, unavailable_response

__all__ = [
    "BatchLoader",
    "CausalToken",
    "Index",
    "IndexPlan",
    "Indexes",
    "MongoClients",
    "MongoStatus",
    "NodeStatus",
    "PoolStatus",
    "PositionStore",
    "Query",
    "QueryGuard",
    "QueryGuardMiddleware",
    "ReadYourWritesMiddleware",
    "ShardKey",
    "Zone",
    "handle_unavailable",
    "identify",
    "lookup_many",
    "lookup_one",
    "unavailable_response",
]
