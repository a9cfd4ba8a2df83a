"""Folders of images on servers."""
