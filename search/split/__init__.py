"""Codecs of splits: fitted from unlabelled frames in closed form, and their rates predicted."""
