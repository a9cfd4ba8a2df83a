"""The renderer of synthetic street-camera frames."""
