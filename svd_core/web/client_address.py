"""Address of the client whose request is being answered, for code far from the request."""

from contextvars import ContextVar

client_address: ContextVar[str] = ContextVar("client_address", default="")
"""Set by `Guard`. Threads that a request starts see it; Gradio's queue does not hand it on."""
