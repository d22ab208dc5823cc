"""`imagemill compare`: registered versions as a table, a picture and a link."""

from imagemill.compare.comparison import Comparison, compare, plot_metric

__all__ = ["Comparison", "compare", "plot_metric"]
