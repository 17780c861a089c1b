"""Pictures and video files: decoding, framing, encoding, metadata. Knows no model and no job."""
