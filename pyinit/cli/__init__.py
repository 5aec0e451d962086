"""One module a verb; the only place that prints or leaves."""
