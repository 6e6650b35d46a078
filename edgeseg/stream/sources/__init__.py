"""Where frames come from: a room knows nothing of sinks or of the runner."""
