"""Real servers for a laptop and for tests: a MongoDB replica set and a Redis, on loopback, gone with the process.

```python
async with LocalMongo(replicas=3) as mongo, LocalRedis() as redis:
    app = make_app(mongo_uri=mongo.uri, redis_url=redis.uri)
```
"""

from smriti_scale.local.mongod import LocalMongo, Member
from smriti_scale.local.redis import LocalRedis

__all__ = ["LocalMongo", "LocalRedis", "Member"]
