"""The models of a config, in this process and in the workers of a cluster."""
