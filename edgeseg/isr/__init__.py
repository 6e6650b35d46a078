"""Choosing how far attention is thinned (inference spatial reduction) by measured accuracy and measured
time.
"""
