"""Tests of the models that come from a store: archives, local copies, and what is followed."""
