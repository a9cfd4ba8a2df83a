"""Long work in shards: measured on any machines by hand, then put together."""
