"""One scorer per family: a model and prepared rows in, figures beside their baselines out."""
