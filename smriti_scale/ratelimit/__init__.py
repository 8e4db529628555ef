"""Rate limits: slowapi's decorators, one round trip for all limits of a request, never a blocked loop.

```python
limiter = RateLimiter(key_func=client_address(trusted_proxies=["10.0.0.0/8"]), storage_uri="redis://localhost:6379/0")
setup_rate_limiting(app, limiter)

@app.post("/login")
@limiter.limit("5/minute")
async def login(request: Request): ...
```
"""

from smriti_scale.ratelimit.exceeded import RateLimitExceeded
from smriti_scale.ratelimit.identity import IdentityList, api_key, client_address, user_or_address
from smriti_scale.ratelimit.leases import LeasePolicy
from smriti_scale.ratelimit.limiter import RateLimiter
from smriti_scale.ratelimit.middleware import RateLimitMiddleware
from smriti_scale.ratelimit.rules import BanPolicy, LimitStatus, Standing
from smriti_scale.ratelimit.tiers import Tiers
from smriti_scale.ratelimit.wiring import setup_rate_limiting

__all__ = [
    "BanPolicy",
    "IdentityList",
    "LeasePolicy",
    "LimitStatus",
    "RateLimitExceeded",
    "RateLimitMiddleware",
    "RateLimiter",
    "Standing",
    "Tiers",
    "api_key",
    "client_address",
    "setup_rate_limiting",
    "user_or_address",
]
