"""Measuring trained models: figures beside their baselines, from models opened the way users open them."""
