"""Flower's runtime seen from outside: commands to a SuperLink, and the environment that Flower's processes run in."""
