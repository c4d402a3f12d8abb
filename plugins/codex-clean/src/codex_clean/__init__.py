"""Cleaning steps for training data."""
