"""The same model trained on pooled people, and the probe that judges any encoder."""
