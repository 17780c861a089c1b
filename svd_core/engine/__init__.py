"""The engine: one diffusers pipeline in memory. Only this package of the app imports torch."""
