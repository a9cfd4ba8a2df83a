"""A plan as an SVG diagram."""
