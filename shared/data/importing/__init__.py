"""Recordings of any make become a folder of windows: read, understood, aligned, cut, checked, shown."""
