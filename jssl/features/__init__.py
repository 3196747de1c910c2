"""Features of many pictures: computed once, kept in a file, searched."""
