"""MongoDB's error codes about indexes as sentences that say what to do. Pure."""

from __future__ import annotations

from pymongo.errors import OperationFailure

from smriti_scale.errors import IndexBuildFailed
from smriti_scale.mongo.catalog import INDEX_NOT_FOUND
from smriti_scale.mongo.plan import Step

CANNOT_CONVERT_TO_UNIQUE = 359

_SENTENCES = {
    13: "the role of this user does not allow it: it needs createIndex, dropIndex, collMod and listIndexes here "
    "(`dbAdmin` has them) and readWrite on the collection smriti_scale_indexes",
    67: "the server holds this for no possible index, or the collection has 64 already",
    85: "an index with the same fields and other options exists already; plan again to see which",
    86: "another index has this name already; plan again, or give the declaration name=…",
    166: "this is a view; declare the indexes on the collection it reads from",
    276: "the build was aborted: someone dropped the index, or the collection, or killed the operation. Apply again",
    INDEX_NOT_FOUND: "the index is gone; plan again",
    CANNOT_CONVERT_TO_UNIQUE: "duplicates remain; mend them and apply again",
}
_NAMES = {
    13: "Unauthorized",
    27: "IndexNotFound",
    67: "CannotCreateIndex",
    85: "IndexOptionsConflict",
    86: "IndexKeySpecsConflict",
    166: "CommandNotSupportedOnView",
    276: "IndexBuildAborted",
    359: "CannotConvertIndexToUnique",
}


def explained(error: OperationFailure, step: Step) -> IndexBuildFailed:
    """The error to raise in place of the server's, with its code and what to do."""
    told = str((error.details or {}).get("errmsg", error))
    code = error.code
    what = f"{step.kind} {step.collection}.{step.name}"
    sentence = _SENTENCES.get(code or 0)
    if sentence is None:
        return IndexBuildFailed(f"{what}: MongoDB says {told!r} (code {code})", code=code)
    name = _NAMES.get(code or 0, "")
    return IndexBuildFailed(f"{what}: {sentence}. MongoDB's own words (code {code}, {name}): {told}", code=code)
