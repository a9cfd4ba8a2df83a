"""Refinement of the linear maps of a plan on unlabelled frames, after their closed form."""
