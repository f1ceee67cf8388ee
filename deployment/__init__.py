"""A federation on a network: starts a run on a SuperLink, follows it, and brings its results home."""
