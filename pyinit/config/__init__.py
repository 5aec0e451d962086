"""TOML text becomes the model; every error of a set of files at once, with its line."""
