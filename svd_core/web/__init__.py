"""Everything that HTTP reaches: the page, the API, and the middleware in front of both."""
