"""`merge-search split`: plans are split between a device and a server, and verified."""
