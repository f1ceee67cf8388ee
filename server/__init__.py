"""The server: averages encoders, and never sees a window."""
