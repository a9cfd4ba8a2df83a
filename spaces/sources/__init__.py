"""The libraries that networks come from: one module for each, behind one protocol."""
