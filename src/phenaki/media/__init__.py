"""Pictures and videos: read, written, laid out."""
