"""The REST API ``/api/v1``: one table of routes, from which everything else about it follows."""
