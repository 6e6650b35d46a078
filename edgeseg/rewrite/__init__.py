"""The deployed form of a model: exact rewrites, made before quantizers go in and before export."""
