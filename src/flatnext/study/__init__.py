"""The study: which runs, where they execute, and the statistics over them."""
