"""Boxes from a JSON file in COCO's format."""
