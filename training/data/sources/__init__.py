"""Where rows come from: files, folders, the Hub, built-in text."""
