"""What is watched beside the pipeline: state, events, regions, alarms, the service manager."""
