"""What we store: the only package that knows SQL."""
