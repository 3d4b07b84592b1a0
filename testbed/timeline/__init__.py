"""Plays a plan on a lab, inside the world, and writes down what happens as it happens."""
