"""Scaling primitives for async ASGI apps on MongoDB and Redis.

Every name here loads its module on first use, so that importing the package loads no driver.
"""

__version__ = "0.1.0"
