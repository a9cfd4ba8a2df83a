"""Scheduled monitoring: one round, its workspace, its daemon."""
