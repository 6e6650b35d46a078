"""The pipeline between sources and sinks: capture, lanes, levels, outputs."""
