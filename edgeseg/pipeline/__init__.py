"""The stages as plain functions. Each leaves its result whole or not at all; only those that need torch open
its rooms.
"""
