"""Side-by-side benchmarks on a real broker; see README.md in this folder."""
