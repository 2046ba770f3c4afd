"""A local page to look at pictures and decide: tiles, histogram, threshold, marks."""
