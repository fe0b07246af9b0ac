"""Metric objects of the `evaluate` library, loadable by class or by local path, without the Hub.

from eval.metrics.fill_blank_ranking import FillBlankRanking
evaluate.load("eval/metrics/fill_blank_ranking.py")
"""
