"""Several engines behind one address (extra ``replicas``).

Each replica is an actor of Ray Serve with an engine of its own, on a GPU of its own where there are
GPUs, and answers with the routes that one engine is served with. Requests come in where ``skipstone
serve`` runs: ``front`` reads them, checks keys and sizes as ever, and passes them to the replica
that ``router`` chooses. ``deployment`` starts, restarts and ends the replicas.
"""
