"""Bundles, the champion in service, and the promotion rule."""
