"""The runtimes that a portable graph is written for, and checks of a graph against them."""
