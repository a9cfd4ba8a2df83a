"""Schemas of every JSON record, as dataclasses."""
