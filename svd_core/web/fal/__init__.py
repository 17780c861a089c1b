"""The HTTP API, in the dialect of fal's clients; nothing outside this folder knows its names."""
