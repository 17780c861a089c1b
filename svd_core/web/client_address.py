"""Client address of the current request, as a context variable."""

from contextvars import ContextVar

client_address: ContextVar[str] = ContextVar("client_address", default="")
"""Set by `GuardMiddleware`. Threads that a request starts see it; Gradio's queue does not hand it
on."""
