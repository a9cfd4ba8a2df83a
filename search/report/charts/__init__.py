"""Charts: SVG on the page, plotly for interaction, matplotlib for heat maps and correlations."""

import logging

# Where the home folder cannot be written to, matplotlib says twice that it has no cache.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
