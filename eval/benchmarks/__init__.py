"""Comparisons: arms x seeds, one result file each, collected into tables with intervals."""
