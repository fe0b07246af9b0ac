"""Settings of recipes: the fields of every section, and which family has which."""
