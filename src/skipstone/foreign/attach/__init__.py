"""Recording: the calls of a foreign model become the steps of a trace."""
