"""Colours of the charts that matplotlib and plotly draw; the SVG charts take theirs from CSS."""

BLUE, ORANGE, GREY, RED = "#2563eb", "#d97706", "#6b7280", "#b91c1c"
SLATE, PALE = "#334155", "#cbd5e1"
