"""`python -m smriti_scale.cli`, where the console script is not on PATH."""

from smriti_scale.cli import main

main()
