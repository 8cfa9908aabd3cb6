"""One site, one round."""
