"""Plots of a page: matplotlib draws, the page's style sheet colours."""
