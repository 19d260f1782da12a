"""What every package stands on: errors, files, configurations, devices, components on disk."""
