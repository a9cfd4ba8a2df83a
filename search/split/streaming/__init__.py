"""Simulate streams of frames from a device to a server over links whose rate varies."""
