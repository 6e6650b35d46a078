"""What this package adds to edgeseg; pyproject.toml says under which names."""
