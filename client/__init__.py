"""A person's device: trains on its own windows, sends encoder weights only."""
