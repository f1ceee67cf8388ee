"""A federation on one machine, by Flower's simulation runtime or in one process."""
