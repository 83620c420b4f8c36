"""Declare the configuration of a run, and check the rules between its keys; imports no torch."""
