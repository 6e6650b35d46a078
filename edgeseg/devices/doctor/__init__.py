"""`edgeseg doctor`: findings, traps, and install lines."""
