"""Charts: SVG on the page, plotly for interaction, matplotlib for heat maps and correlations."""
