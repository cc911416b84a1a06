"""The built-in adapters, templates and readers, registered through the same hooks as a stranger's package."""
