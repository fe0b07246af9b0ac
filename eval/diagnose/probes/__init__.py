"""Measurements that several checks share."""
