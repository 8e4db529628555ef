"""`python -m tests.benchmarks [name …]`: the tables, ours beside the peers'; without a name, all of them."""

from __future__ import annotations

import asyncio
import inspect
import pkgutil
import sys
from importlib import import_module

import tests.benchmarks


def main() -> int:
    known = [found.name for found in pkgutil.iter_modules(tests.benchmarks.__path__) if not found.name.startswith("_")]
    wanted = sys.argv[1:] or known
    if unknown := set(wanted) - set(known):
        print(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    for name in wanted:
        print(f"\n== {name}", flush=True)
        outcome = import_module(f"tests.benchmarks.{name}").main()
        if inspect.isawaitable(outcome):
            asyncio.run(outcome)  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main())
