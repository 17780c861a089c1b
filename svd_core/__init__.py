"""Turn a photo into a short video with Stable Video Diffusion. Start reading at `generate.py`."""

__version__ = "0.1.0"
