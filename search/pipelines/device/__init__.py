"""Plans on devices: measurements that come back from a box."""
