"""The parity ladder: from the torch model to the programs, and how far each rung may differ."""
