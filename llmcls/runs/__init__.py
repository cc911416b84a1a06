"""Run directories: what a trained classifier is on the disk, and how it is put together again."""
