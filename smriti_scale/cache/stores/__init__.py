"""Where entries are kept: this process's memory, and Redis."""
