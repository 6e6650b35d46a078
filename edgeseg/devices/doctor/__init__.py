"""What `edgeseg doctor` tells: findings, traps, and what to type."""
