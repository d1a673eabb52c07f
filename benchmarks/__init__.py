"""Benchmarks, their stored results, and the tables of the README that are made from them."""
