"""Routes of the HTTP API, one module for each part of the address space."""
