"""Live and recorded video: sources, sinks and the runner between them."""
