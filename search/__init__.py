"""Searching for the cheapest merge of several networks."""
