"""What is reached by HTTP. Nothing outside this package knows that there is a web."""
