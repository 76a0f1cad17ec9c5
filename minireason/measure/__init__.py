"""Accuracy with intervals, unbiased estimators, fitted laws."""
